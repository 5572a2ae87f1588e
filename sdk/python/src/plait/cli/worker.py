"""`plait worker`: list and get."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("worker")
def worker_command() -> None:
    """Look at workers."""


@worker_command.command("list")
@click.option("--method", default="", help="Only those that serve package.Service/Method.")
@api_command
async def list_command(api: Any, method: str) -> Exit:
    """List attached workers, as the scheduler sees them."""
    from plait.cli import _workers

    return await _workers.list_workers(api, method)


@worker_command.command("get")
@click.argument("worker")
@api_command
async def get_command(api: Any, worker: str) -> Exit:
    """Show an attached worker by its id, and what its breaker lets it have."""
    from plait.cli import _workers

    return await _workers.get_worker(api, worker)
