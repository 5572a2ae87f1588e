"""What `plait call` and `plait submit` share."""

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from plait.cli._command import Exit, Stop
from plait.cli._time import moment_of

if TYPE_CHECKING:
    from plait import Task
    from plait.cli._api import Api


def submission_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of a submission."""
    for option in reversed(
        (
            click.option("--key", help="Idempotency key.  [default: from the request]"),
            click.option("--ordering-key", help="Ordering key.  [default: from the request]"),
            click.option("--delay", type=float, metavar="SECONDS", help="Start no earlier."),
            click.option("--at", metavar="TIME", help="Start no earlier: 2026-11-23T03:00:00Z."),
            click.option("--deadline", type=float, metavar="SECONDS", help="For the whole task."),
            click.option("--priority", type=click.IntRange(0, 9), help="Higher goes first."),
            click.option(
                "-H", "--header", multiple=True, metavar="KEY:VALUE", help="Metadata, repeatable."
            ),
        )
    ):
        function = option(function)
    return function


async def submit(api: "Api", method: str, request: str, said: dict[str, Any]) -> Exit:
    """Prints the task's id."""
    import plait

    async with plait.connect(api.address) as client:
        task = await _submit(api, client, method, request, said)
        api.output.data({"id": task.id}, task.id)
    return Exit.OK


async def call(api: "Api", method: str, request: str, said: dict[str, Any]) -> Exit:
    """Prints the result."""
    import grpc

    import plait
    from plait.cli._api import describe, say

    async with plait.connect(api.address) as client:
        task = await _submit(api, client, method, request, said)
        say(f"task {task.id}")
        try:
            async with asyncio.timeout(api.wait):
                result = await task.result()
        except TimeoutError:
            message = f"no result after {api.wait:g} s; it goes on: plait task watch {task.id}"
            raise Stop(Exit.TIMED_OUT, message) from None
        except grpc.aio.AioRpcError as error:
            say(describe(error))
            return Exit.TASK_FAILED
    indent = None if api.output.kind == "jsonl" else 2
    click.echo(json.dumps(result, indent=indent, ensure_ascii=False))
    return Exit.OK


async def _submit(
    api: "Api", client: Any, method: str, request: str, said: dict[str, Any]
) -> "Task[Any]":
    from plait.cli import _messages

    # Asks the broker first: a call of the session would wait for a broker that is not there.
    found = await _messages.find(api, method)
    message = found.parse(_messages.read_text(request))
    multicallable = client.channel().unary_unary(
        found.path,
        request_serializer=found.request.SerializeToString,
        response_deserializer=lambda payload: found.to_dict(found.response.FromString(payload)),
    )
    metadata = [_header(each) for each in said.pop("header")]
    at = said.pop("at")
    if at is not None:
        if said["delay"] is not None:
            raise Stop(Exit.USAGE, "--delay and --at exclude each other")
        said["delay"] = moment_of(at)
    async with asyncio.timeout(api.timeout):
        task: Task[Any] = await client.submit(
            multicallable, message, metadata=metadata or None, **said
        )
    return task


def _header(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon or not key.strip():
        raise Stop(Exit.USAGE, f'"{text}" is no header: write key:value')
    return key.strip().lower(), value.strip()
