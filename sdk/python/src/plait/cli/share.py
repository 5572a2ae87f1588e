"""`plait share`: set, list, clear."""

from typing import Any

import click

from plait.cli._command import Exit, api_command

_KEY = click.option(
    "--key", required=True, metavar="KEY", help="The value of the field that the contract names."
)


@click.group("share")
def share_command() -> None:
    """Weigh tenants: how many starts a key has while others wait, too."""


@share_command.command("set")
@click.argument("method")
@_KEY
@click.option(
    "--weight",
    type=click.IntRange(1, 1000),
    required=True,
    help="Starts for each one of a key without a weight.",
)
@click.option("--for", "span", metavar="SPAN", help="For so long.  [default: until it is cleared]")
@click.option("--reason", default="", help="For people; it is kept.")
@api_command
async def set_command(api: Any, method: str, **said: Any) -> Exit:
    """Give a key a weight at once, whatever contract is put in force meanwhile.

    METHOD is package.Service/Method, whose contract names a fairness_key or limits by key.
    """
    from plait.cli import _shares

    return await _shares.set_share(api, method, said)


@share_command.command("list")
@click.argument("method", required=False)
@api_command
async def list_command(api: Any, method: str | None) -> Exit:
    """List the keys that have weights, of one METHOD or of all."""
    from plait.cli import _shares

    return await _shares.list_shares(api, method)


@share_command.command("clear")
@click.argument("method")
@_KEY
@api_command
async def clear_command(api: Any, method: str, key: str) -> Exit:
    """Give a key as many starts as any other again."""
    from plait.cli import _shares

    return await _shares.clear_share(api, method, key)
