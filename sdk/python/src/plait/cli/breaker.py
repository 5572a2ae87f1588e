"""`plait breaker`: list."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("breaker")
def breaker_command() -> None:
    """Look at the breakers of methods."""


@breaker_command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are closed.")
@api_command
async def list_command(api: Any, everything: bool) -> Exit:
    """List methods whose tasks are parked because they fail, and those that are tried again."""
    from plait.cli import _breakers

    return await _breakers.list_breakers(api, everything=everything)
