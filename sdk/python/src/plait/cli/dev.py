"""`plait dev`: everything on this machine. The scheduler's package does the work."""

import importlib.util
import os
import shlex
import sys
from typing import NoReturn

import click


@click.command("dev", context_settings={"ignore_unknown_options": True})
@click.option(
    "--data-dir",
    envvar="PLAIT_DATA_DIR",
    metavar="PATH",
    help="Is kept.  [default: $XDG_DATA_HOME/plait]",
)
@click.option(
    "--listen",
    envvar="PLAIT_LISTEN",
    metavar="HOST:PORT",
    help="Of the broker.  [default: 127.0.0.1:7420]",
)
@click.option(
    "--worker",
    multiple=True,
    metavar="[NAME[:LEAST..MOST]=]COMMAND",
    help="A worker to start, and to start again when it dies; repeatable.",
)
@click.option(
    "--processes",
    metavar="LEAST[..MOST]",
    help="Of each worker that does not say; as many as its backlog needs.  [default: 1]",
)
@click.option("--grace", type=float, metavar="SECONDS", help="For workers to drain.  [default: 30]")
@click.option("--log-level", metavar="LEVEL", help="Of the scheduler.  [default: info]")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def dev_command(
    data_dir: str | None,
    listen: str | None,
    worker: tuple[str, ...],
    processes: str | None,
    grace: float | None,
    log_level: str | None,
    command: tuple[str, ...],
) -> NoReturn:
    """Start broker, scheduler and workers on this machine; Ctrl-C drains and stops them all.

    What dies is started again. Data is kept. COMMAND after -- is one more worker; workers find the
    broker by PLAIT_ADDRESS.
    """
    if importlib.util.find_spec("plait_scheduler") is None:
        click.echo("the scheduler is missing: pip install plait-scheduler", err=True)
        raise SystemExit(4)
    arguments = [sys.executable, "-m", "plait_scheduler", "dev"]
    for flag, value in (
        ("--data-dir", data_dir),
        ("--listen", listen),
        ("--processes", processes),
        ("--grace-seconds", grace),
        ("--log-level", log_level),
    ):
        if value is not None:
            arguments += [flag, str(value)]
    workers = [*worker, shlex.join(command)] if command else list(worker)
    for each in workers:
        arguments += ["--worker", each]
    os.execv(sys.executable, arguments)
