"""`plait call`: a method as a durable task, awaited."""

from typing import Any

import click

from plait.cli._command import Exit, api_command
from plait.cli._submitting import submission_options


@click.command("call")
@click.argument("method")
@click.argument("request", default="{}", metavar="[JSON]")
@submission_options
@api_command
async def call_command(api: Any, method: str, request: str, **said: Any) -> Exit:
    """Run METHOD as a durable task and print its result.

    METHOD is package.Service/Method; JSON is its request: text, @FILE, or - for stdin. The
    contract is the broker's. The task's id goes to stderr: the task goes on when the wait ends.
    """
    from plait.cli import _submitting

    return await _submitting.call(api, method, request, said)
