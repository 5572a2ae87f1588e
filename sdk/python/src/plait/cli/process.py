"""`plait process`: list."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("process")
def process_command() -> None:
    """Look at the local processes that `plait dev` supervises."""


@process_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List local processes: which run, which die and are started again, and which tasks may be what
    ends them.
    """
    from plait.cli import _local_processes

    return await _local_processes.list_processes(api)
