"""`plait task`: list, get, watch, cancel, retry."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("task")
def task_command() -> None:
    """Look at tasks and act on them."""


@task_command.command("list")
@click.option("--filter", "filter_", default="", help='AIP-160: state = "FAILED" AND attempt > 1.')
@click.option("--state", help="Short for a filter.")
@click.option("--method", help="Short for a filter: package.Service/Method.")
@click.option("--queue", help="Short for a filter.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1))
@api_command
async def list_command(api: Any, limit: int, **said: str | None) -> Exit:
    """List tasks, newest first."""
    from plait.cli import _tasks

    return await _tasks.list_tasks(api, _tasks.filter_of(said), limit)


@task_command.command("get")
@click.argument("task")
@api_command
async def get_command(api: Any, task: str) -> Exit:
    """Show a task: where it is, what happened to it, its request and response."""
    from plait.cli import _tasks

    return await _tasks.get_task(api, task)


@task_command.command("watch")
@click.argument("task")
@api_command
async def watch_command(api: Any, task: str) -> Exit:
    """Follow a task to its end; exit code 1 unless it SUCCEEDED."""
    from plait.cli import _tasks

    return await _tasks.watch_task(api, task)


@task_command.command("cancel")
@click.argument("tasks", nargs=-1, required=True)
@click.option("--reason", default="", help="For people; kept with the task.")
@api_command
async def cancel_command(api: Any, tasks: tuple[str, ...], reason: str) -> Exit:
    """Cancel tasks. Exit code 6 when one had reached another final state before."""
    from plait.cli import _tasks

    return await _tasks.cancel_tasks(api, tasks, reason)


@task_command.command("retry")
@click.argument("tasks", nargs=-1)
@click.option("--filter", "filter_", default="", help="AIP-160, over failed tasks.")
@click.option("--dry-run", is_flag=True, help="Count only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@api_command
async def retry_command(
    api: Any, tasks: tuple[str, ...], filter_: str, dry_run: bool, yes: bool
) -> Exit:
    """Run failed tasks again: those named, or those that a filter finds."""
    from plait.cli import _tasks

    return await _tasks.retry_tasks(api, tasks, filter_, dry_run=dry_run, yes=yes)
