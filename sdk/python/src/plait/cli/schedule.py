"""`plait schedule`: create, list, show, next, pause, resume, trigger, backfill, delete."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("schedule")
def schedule_command() -> None:
    """Start tasks at times that recur.

    Times are read as "2026-11-23T03:00:00Z"; spans as "90s", "1h30m", "500ms", "2d".
    """


def _declared(function: Callable[..., Any]) -> Callable[..., Any]:
    """When and how it runs."""
    several: Sequence[Callable[..., Any]] = (
        click.option(
            "--cron",
            metavar="EXPRESSION",
            help='Minute, hour, day, month, weekday: "30 2 * * 1-5"; or @daily and the like.',
        ),
        click.option("--every", metavar="SPAN", help="The same distance between all runs."),
        click.option(
            "--anchor", metavar="TIME", help="Where --every counts from.  [default: 1970]"
        ),
        click.option(
            "--timezone", metavar="NAME", help="Of --cron, such as Europe/Berlin.  [default: UTC]"
        ),
        click.option("--start", metavar="TIME", help="No run before it."),
        click.option("--end", metavar="TIME", help="No run after it."),
        click.option("--jitter", metavar="SPAN", help="Each run is late by a share of this."),
        click.option(
            "--overlap",
            type=click.Choice(["skip", "allow", "buffer-one", "cancel-previous"]),
            default="skip",
            show_default=True,
            help="While the run before is not finished.",
        ),
        click.option(
            "--missed",
            type=click.Choice(["once", "skip", "all"]),
            default="once",
            show_default=True,
            help="What becomes of runs that no scheduler was there for.",
        ),
        click.option(
            "--catch-up", metavar="SPAN", help="How far back missed runs count.  [default: 365d]"
        ),
        click.option("--priority", type=click.IntRange(0, 9), help="Higher goes first."),
        click.option(
            "--dry-run", is_flag=True, help="Checks, shows the next runs, changes nothing."
        ),
    )
    for option in reversed(several):
        function = option(function)
    return function


@schedule_command.command("create")
@click.argument("name")
@click.argument("method")
@click.argument("request", default="{}", metavar="[JSON]")
@_declared
@click.option("--replace", is_flag=True, help="Change it where it exists; pause and runs stay.")
@api_command
async def create_command(api: Any, name: str, method: str, request: str, **said: Any) -> Exit:
    """Start METHOD as a durable task at times that recur.

    METHOD is package.Service/Method; JSON is the request of every run: text, @FILE, or - for
    stdin. The contract is the broker's.
    """
    from plait.cli import _schedules

    return await _schedules.create(api, name, method, request, said)


@schedule_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List the schedules."""
    from plait.cli import _schedules

    return await _schedules.list_schedules(api)


@schedule_command.command("show")
@click.argument("name")
@api_command
async def show_command(api: Any, name: str) -> Exit:
    """Show a schedule, its last runs and its next ones."""
    from plait.cli import _schedules

    return await _schedules.show(api, name)


@schedule_command.command("next")
@click.argument("name")
@click.option("-n", "--count", type=click.IntRange(1, 100), default=5, show_default=True)
@api_command
async def next_command(api: Any, name: str, count: int) -> Exit:
    """Show when its next runs start, jitter included."""
    from plait.cli import _schedules

    return await _schedules.show_next(api, name, count)


@schedule_command.command("pause")
@click.argument("name")
@click.option("--note", default="", help="For people.")
@api_command
async def pause_command(api: Any, name: str, note: str) -> Exit:
    """Start no more runs by time. What passes meanwhile is not made up for."""
    from plait.cli import _schedules

    return await _schedules.pause(api, name, note)


@schedule_command.command("resume")
@click.argument("name")
@click.option("--note", default="", help="For people.")
@api_command
async def resume_command(api: Any, name: str, note: str) -> Exit:
    """Undo a pause; the next run is the next from now."""
    from plait.cli import _schedules

    return await _schedules.resume(api, name, note)


@schedule_command.command("trigger")
@click.argument("name")
@click.option("--request-id", default="", help="Equal ids, one run.  [default: a new one]")
@api_command
async def trigger_command(api: Any, name: str, request_id: str) -> Exit:
    """Start a run now, also of a paused schedule, and print its task's id."""
    from plait.cli import _schedules

    return await _schedules.trigger(api, name, request_id)


@schedule_command.command("backfill")
@click.argument("name")
@click.option("--from", "start", required=True, metavar="TIME", help="The first time that counts.")
@click.option("--to", "end", metavar="TIME", help="The last one.  [default: now]")
@click.option("--dry-run", is_flag=True, help="Counts and changes nothing.")
@api_command
async def backfill_command(api: Any, name: str, start: str, end: str | None, dry_run: bool) -> Exit:
    """Start the runs of a time that has passed, and print how many they are.

    A time that has had its run, and is remembered, gets no second one. One run after the other,
    with --overlap allow all at once.
    """
    from plait.cli import _schedules

    return await _schedules.backfill(api, name, start, end, dry_run=dry_run)


@schedule_command.command("delete")
@click.argument("name")
@api_command
async def delete_command(api: Any, name: str) -> Exit:
    """Remove a schedule. Tasks that it has submitted go on."""
    from plait.cli import _schedules

    return await _schedules.delete(api, name)
