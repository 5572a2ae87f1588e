"""`plait contract`: list, push, check."""

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
@api_command
async def push_command(
    api: Any, files: tuple[Path, ...], include: tuple[Path, ...], service: tuple[str, ...]
) -> Exit:
    """Make the services of FILES known: .proto files, or one serialized FileDescriptorSet.

    plait/v1/options.proto and google/rpc need not be on the include path.
    """
    from plait.cli import _contracts

    return await _contracts.push(api, files, include, service, validate_only=False)


@contract_command.command("check")
@_sources
@api_command
async def check_command(
    api: Any, files: tuple[Path, ...], include: tuple[Path, ...], service: tuple[str, ...]
) -> Exit:
    """Ask whether FILES would be accepted, and change nothing. Exit code 6 when not."""
    from plait.cli import _contracts

    return await _contracts.push(api, files, include, service, validate_only=True)
