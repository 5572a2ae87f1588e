"""`plait scheduler`: get."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("scheduler")
def scheduler_command() -> None:
    """Look at the scheduler that leads."""


@scheduler_command.command("get")
@api_command
async def get_command(api: Any) -> Exit:
    """Show which scheduler leads, where, since when, in which epoch, and whether it lives: that is
    found out by waiting for it to renew its lease, at most for as long as the lease lasts.
    """
    from plait.cli import _schedulers

    return await _schedulers.get_scheduler(api)
