"""`plait limit`: set, list, clear."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("limit")
def limit_command() -> None:
    """Limit methods in place of their contracts, for a time or until it is cleared."""


@limit_command.command("set")
@click.argument("method")
@click.option(
    "--rate",
    metavar="N/SPAN",
    help='Attempts that may begin in a time: 10/s, 100/5m; "none": any number.',
)
@click.option(
    "--burst",
    type=click.IntRange(1),
    help="Attempts that may begin at once after a rest.  [default: as many as in a time]",
)
@click.option(
    "--concurrency",
    metavar="N",
    help='Attempts at once over all workers; "none": any number.',
)
@click.option("--for", "span", metavar="SPAN", help="For so long.  [default: until it is cleared]")
@click.option("--reason", default="", help="For people; it is kept.")
@api_command
async def set_command(api: Any, method: str, **said: Any) -> Exit:
    """Limit a method at once, whatever contract is put in force meanwhile.

    METHOD is package.Service/Method. What is not given stays as the contract says. Where the
    contract's rate is by key, so is this one.
    """
    from plait.cli import _limits

    return await _limits.set_limit(api, method, said)


@limit_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List the methods that an operator has set limits of."""
    from plait.cli import _limits

    return await _limits.list_limits(api)


@limit_command.command("clear")
@click.argument("method")
@api_command
async def clear_command(api: Any, method: str) -> Exit:
    """Put the contract's limits of a method in force again."""
    from plait.cli import _limits

    return await _limits.clear_limit(api, method)
