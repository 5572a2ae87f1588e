"""`plait submit`: a method as a durable task."""

from typing import Any

import click

from plait.cli._command import Exit, api_command
from plait.cli._submitting import submission_options


@click.command("submit")
@click.argument("method")
@click.argument("request", default="{}", metavar="[JSON]")
@submission_options
@api_command
async def submit_command(api: Any, method: str, request: str, **said: Any) -> Exit:
    """Submit METHOD as a durable task and print its id.

    METHOD is package.Service/Method; JSON is its request: text, @FILE, or - for stdin. The
    contract is the broker's.
    """
    from plait.cli import _submitting

    return await _submitting.submit(api, method, request, said)
