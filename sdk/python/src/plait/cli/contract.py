"""`plait contract`: list, show, log, check, push."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("contract")
def contract_command() -> None:
    """Make contracts known and look at them."""


def _sources(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.argument(
                "files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
            ),
            click.option(
                "-I",
                "--include",
                multiple=True,
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="Where imports are, repeatable.  [default: .]",
            ),
            click.option("--service", multiple=True, help="Only these.  [default: all]"),
        )
    ):
        function = option(function)
    return function


@contract_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List services and their methods."""
    from plait.cli import _contracts

    return await _contracts.list_contracts(api)


@contract_command.command("push")
@_sources
@click.option(
    "--allow",
    metavar="REASON",
    help="Whatever it breaks. The reason is kept with the decision, and who gave it.",
)
@api_command
async def push_command(
    api: Any,
    files: tuple[Path, ...],
    include: tuple[Path, ...],
    service: tuple[str, ...],
    allow: str | None,
) -> Exit:
    """Make the services of FILES known: .proto files, or one serialized FileDescriptorSet.

    A contract that breaks what is in force, or tasks in flight, is refused: exit code 6. See
    `plait contract check`.

    plait/v1/options.proto and google/rpc need not be on the include path.
    """
    from plait.cli import _contracts

    return await _contracts.push(api, files, include, service, reason=allow)


@contract_command.command("check")
@_sources
@api_command
async def check_command(
    api: Any, files: tuple[Path, ...], include: tuple[Path, ...], service: tuple[str, ...]
) -> Exit:
    """Show what FILES would change, and change nothing.

    Changes are harmless, or refused while there are tasks that mind (queued, delayed, running,
    between attempts, dead letters, children on record in unfinished flows), or refused. Exit code
    6 when FILES would be refused now.
    """
    from plait.cli import _contracts

    return await _contracts.check(api, files, include, service)


@contract_command.command("show")
@click.argument("service")
@api_command
async def show_command(api: Any, service: str) -> Exit:
    """Show what is in force of a service, what it broke, and who allowed that."""
    from plait.cli import _contracts

    return await _contracts.show(api, service)


@contract_command.command("log")
@click.argument("service")
@api_command
async def log_command(api: Any, service: str) -> Exit:
    """List the decisions on a service, newest first: the last 100."""
    from plait.cli import _reviews

    return await _reviews.show_log(api, service)
