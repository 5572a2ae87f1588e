"""`plait rollout`: start, set, promote, abort, end, get, list."""

from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("rollout")
def rollout_command() -> None:
    """Give a version of workers a share of a service's work, and take it back if it does badly.

    SERVICE is package.Service. Shares are percentages: "5", "0.5", "12.5".
    """


@rollout_command.command("start")
@click.argument("service")
@click.option("--to", required=True, metavar="VERSION", help="As its workers announce it.")
@click.option(
    "--from",
    "before",
    metavar="VERSION",
    help="What it takes the place of.  [default: the other version that is attached]",
)
@click.option("--percent", metavar="PERCENT", help="Its share at first.  [default: 0]")
@click.option(
    "--steps",
    metavar="PERCENT:SPAN,...",
    help='Shares one after the other, such as "1:10m,10:10m,50:30m,100:10m".',
)
@click.option(
    "--sticky",
    type=click.Choice(["task", "ordering-key", "idempotency-key", "limit-key"]),
    default="task",
    show_default=True,
    help="What stays with one version.",
)
@click.option(
    "--error-margin",
    metavar="PERCENT",
    help="Rolled back if so many more attempts fail than of other versions.  [default: 1]",
)
@click.option(
    "--latency-ratio",
    type=click.FloatRange(min=0),
    metavar="TIMES",
    help="Rolled back if attempts take so many times longer; 0: any.  [default: 2]",
)
@click.option(
    "--min-samples",
    type=click.IntRange(1, 1_000_000_000),
    help="Attempts on each side before anything is judged.  [default: 50]",
)
@click.option("--no-rollback", is_flag=True, help="Never roll back by itself.")
@api_command
async def start_command(api: Any, service: str, **said: Any) -> Exit:
    """Begin to give work of SERVICE to the workers of a version."""
    from plait.cli import _rollouts

    return await _rollouts.start(api, service, said)


@rollout_command.command("set")
@click.argument("service")
@click.option("--percent", required=True, metavar="PERCENT", help="The version's share.")
@api_command
async def set_command(api: Any, service: str, percent: str) -> Exit:
    """Set the share by hand. Steps that are left are not taken."""
    from plait.cli import _rollouts

    return await _rollouts.set_share(api, service, percent)


@rollout_command.command("promote")
@click.argument("service")
@api_command
async def promote_command(api: Any, service: str) -> Exit:
    """Give everything to the version; the version before gets nothing more."""
    from plait.cli import _rollouts

    return await _rollouts.promote(api, service)


@rollout_command.command("abort")
@click.argument("service")
@click.option("--reason", default="", help="For people.")
@api_command
async def abort_command(api: Any, service: str, reason: str) -> Exit:
    """Take everything from the version."""
    from plait.cli import _rollouts

    return await _rollouts.abort(api, service, reason)


@rollout_command.command("end")
@click.argument("service")
@api_command
async def end_command(api: Any, service: str) -> Exit:
    """Forget a rollout: all workers of SERVICE take its tasks, whatever their version."""
    from plait.cli import _rollouts

    return await _rollouts.end(api, service)


@rollout_command.command("get")
@click.argument("service")
@api_command
async def get_command(api: Any, service: str) -> Exit:
    """Show a rollout: its share, how both sides do, and what happened to it."""
    from plait.cli import _rollouts

    return await _rollouts.show(api, service)


@rollout_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List the rollouts."""
    from plait.cli import _rollouts

    return await _rollouts.list_rollouts(api)
