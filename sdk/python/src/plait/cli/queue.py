"""`plait queue`: list, get, pause, resume."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("queue")
def queue_command() -> None:
    """Look at queues and hold them."""


@queue_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List the queues."""
    from plait.cli import _queues

    return await _queues.list_queues(api)


@queue_command.command("get")
@click.argument("queue")
@api_command
async def get_command(api: Any, queue: str) -> Exit:
    """Show a queue."""
    from plait.cli import _queues

    return await _queues.get_queue(api, queue)


@queue_command.command("pause")
@click.argument("queue")
@click.option("--reason", default="", help="For people.")
@api_command
async def pause_command(api: Any, queue: str, reason: str) -> Exit:
    """Start no more tasks of a queue. It goes on accepting them; what runs finishes."""
    from plait.cli import _queues

    return await _queues.pause_queue(api, queue, reason)


@queue_command.command("resume")
@click.argument("queue")
@api_command
async def resume_command(api: Any, queue: str) -> Exit:
    """Undo a pause."""
    from plait.cli import _queues

    return await _queues.resume_queue(api, queue)
