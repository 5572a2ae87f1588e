"""Runs a command against the broker: connects, bounds the wait, turns errors into exit codes."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import click
import grpc
from google.rpc import error_details_pb2

from plait import _wire, errors
from plait.cli._command import DEFAULT_TIMEOUT_S, Exit, Stop
from plait.cli._output import Output
from plait.v1 import contract_service_pb2_grpc, task_service_pb2_grpc

_CODES = {
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: Exit.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.TIMED_OUT,
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.ABORTED: Exit.CONFLICT,
    grpc.StatusCode.ALREADY_EXISTS: Exit.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.CONFLICT,
}


class Api:
    """The broker's services, for one command."""

    def __init__(self, address: str, output: Output, wait: float | None) -> None:
        self.address = address
        self.output = output
        # As given on the command line; None: not given.
        self.wait = wait
        # Of a call of the API, which answers at once. Seconds.
        self.timeout = DEFAULT_TIMEOUT_S if wait is None else wait
        self.channel = _wire.open_channel(address)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.contracts = contract_service_pb2_grpc.ContractServiceStub(self.channel)


def run(
    function: Callable[..., Coroutine[Any, Any, Exit | None]],
    address: str | None,
    output: str,
    wait: float | None,
    rest: Mapping[str, Any],
) -> Exit:
    """Runs a command to its end; answers its exit code."""
    where = _wire.address(address)
    try:
        return asyncio.run(_run(function, where, Output(output), wait, rest)) or Exit.OK
    except Stop as stop:
        say(str(stop))
        return stop.code
    except grpc.aio.AioRpcError as error:
        say(describe(error, where))
        return exit_code(error)
    except TimeoutError:
        say("timed out")
        return Exit.TIMED_OUT
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


async def _run(
    function: Callable[..., Coroutine[Any, Any, Exit | None]],
    address: str,
    output: Output,
    wait: float | None,
    rest: Mapping[str, Any],
) -> Exit | None:
    api = Api(address, output, wait)
    async with api.channel:
        return await function(api, **rest)


def exit_code(error: grpc.aio.AioRpcError) -> Exit:
    """The exit code for an error of the API."""
    if errors.reason(error) == errors.Reason.POLICY_INVALID:
        return Exit.CONFLICT
    return _CODES.get(error.code(), Exit.TASK_FAILED)


def describe(error: grpc.aio.AioRpcError, address: str = "") -> str:
    """An error for people: code, message, and what its details add."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and errors.reason(error) is None and address:
        return f"cannot reach Plait at {address} (is `plait dev` running?): {error.details()}"
    lines = [f"{error.code().name}: {error.details()}"]
    reason = errors.reason(error)
    if reason is not None:
        lines.append(f"  reason: {reason}")
    violations = errors.detail(error, error_details_pb2.BadRequest)
    if violations is not None:
        lines += [f"  {each.field}: {each.description}" for each in violations.field_violations]
    failures = errors.detail(error, error_details_pb2.PreconditionFailure)
    if failures is not None:
        lines += [f"  {each.subject}: {each.description}" for each in failures.violations]
    return "\n".join(lines)


def say(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)
