"""`plait flag`: set, list, get, delete."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("flag")
def flag_command() -> None:
    """Switches that handlers read."""


@flag_command.command("set")
@click.argument("name")
@click.argument("state", type=click.Choice(["on", "off"]), required=False)
@click.option("--percent", help="On for so many of a hundred keys, such as 5 or 0.25.")
@click.option("--for", "keys_on", multiple=True, metavar="KEY", help="On for this key in any case.")
@click.option(
    "--not-for", "keys_off", multiple=True, metavar="KEY", help="Off for this key in any case."
)
@click.option(
    "--forget", multiple=True, metavar="KEY", help="This key is no longer on or off in any case."
)
@click.option("--description", help="For people.")
@click.option("--by", "changed_by", help="Who changes it. Default: the name of the user.")
@click.option("--version", type=int, help="Only if it has this version; 0: only a new one.")
@api_command
async def set_command(api: Any, **wanted: Any) -> Exit:
    """Set a flag, NAME, for everybody (on or off) or for a share of keys. What is not said stays as
    it is.
    """
    from plait.cli import _flags

    return await _flags.set_flag(api, _flags.Wanted(**wanted))


@flag_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List the flags."""
    from plait.cli import _flags

    return await _flags.list_flags(api)


@flag_command.command("get")
@click.argument("name")
@api_command
async def get_command(api: Any, name: str) -> Exit:
    """Show a flag."""
    from plait.cli import _flags

    return await _flags.get_flag(api, name)


@flag_command.command("delete")
@click.argument("name")
@click.option("--version", type=int, help="Only if it has this version.")
@api_command
async def delete_command(api: Any, name: str, version: int | None) -> Exit:
    """Remove a flag. Handlers get their own default again."""
    from plait.cli import _flags

    return await _flags.delete_flag(api, name, version)
