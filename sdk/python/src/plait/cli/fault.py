"""`plait fault`: set, list, clear."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("fault")
def fault_command() -> None:
    """Make direct calls late, or fail, for a time, to see what becomes of their callers.

    Callers do it to themselves, so it needs no worker's help. Durable tasks are not concerned.
    """


@fault_command.command("set")
@click.argument("method")
@click.option("--abort", metavar="CODE", help="Calls fail with this code, such as UNAVAILABLE.")
@click.option("--delay", metavar="SPAN", help="Calls are late by this, such as 200ms.")
@click.option(
    "--percent",
    type=click.FloatRange(0, 100, min_open=True),
    default=100,
    show_default=True,
    help="Of the calls, drawn for each; for --abort and --delay each for itself.",
)
@click.option("--for", "duration", required=True, metavar="SPAN", help="Ends by itself: 1s to 1d.")
@api_command
async def set_command(
    api: Any, method: str, abort: str | None, delay: str | None, percent: float, duration: str
) -> Exit:
    """Set the fault of METHOD, package.Service/Method, in place of the one before."""
    from plait.cli import _faults

    share = round(percent * 10_000)
    return await _faults.set_fault(api, method, _faults.Said(abort, delay, share, duration))


@fault_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List the faults that are not over."""
    from plait.cli import _faults

    return await _faults.list_faults(api)


@fault_command.command("clear")
@click.argument("method")
@api_command
async def clear_command(api: Any, method: str) -> Exit:
    """End the fault of METHOD before its time."""
    from plait.cli import _faults

    return await _faults.clear(api, method)
