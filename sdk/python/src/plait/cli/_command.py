"""What every command that talks to the broker has in common: its flags, and how it ends."""

import functools
import os
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

DEFAULT_TIMEOUT_S = 30.0


class Exit(IntEnum):
    """How a command ends."""

    OK = 0
    TASK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    CONFLICT = 6
    INTERRUPTED = 130


class Stop(Exception):
    """Ends a command with a message on stderr and an exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def api_command(function: Callable[..., Any]) -> Callable[..., None]:
    """A command that talks to the broker: a coroutine function, whose first argument is an Api.

    Adds the flags --address, --output and --timeout, and maps errors to exit codes.
    """

    @click.option(
        "--address",
        envvar="PLAIT_ADDRESS",
        show_envvar=True,
        metavar="HOST:PORT",
        help="The broker.  [default: 127.0.0.1:7420]",
    )
    @click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        show_default=True,
        help="json is the JSON of the API's messages.",
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help=f"How long to wait.  [default: {DEFAULT_TIMEOUT_S:g}, for results the task's own]",
    )
    @functools.wraps(function)
    def command(address: str | None, output: str, timeout: float | None, **rest: Any) -> None:
        # What the library of gRPC has to say is for its own developers.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        from plait.cli import _api

        code = _api.run(function, address, output, timeout, rest)
        raise SystemExit(int(code))

    return command


def split_method(text: str) -> tuple[str, str]:
    """Service and method of "package.Service/Method"; a leading slash or a dot will do."""
    service, _, method = text.lstrip("/").rpartition("/")
    if not service:
        service, _, method = text.rpartition(".")
    if not service or not method:
        raise Stop(Exit.USAGE, f'"{text}" is no method: write package.Service/Method')
    return service, method


def method_path(text: str) -> str:
    """The same as a path, as on the wire: "/package.Service/Method"."""
    return "/" + "/".join(split_method(text))
