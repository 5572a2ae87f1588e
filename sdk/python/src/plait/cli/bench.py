"""`plait bench`: throughput and latency of submit to result."""

import click


@click.command("bench")
@click.option("--tasks", default=50_000, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--size", default=256, show_default=True, type=click.IntRange(min=0), help="Payload, bytes."
)
@click.option(
    "--window",
    default=8192,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tasks under way at once.",
)
@click.option(
    "--calls",
    default=500,
    show_default=True,
    type=click.IntRange(min=1),
    help="Calls one at a time, for the latency.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="Worker processes to start; 0: those that are attached.",
)
@click.option(
    "--concurrency", default=1024, show_default=True, type=click.IntRange(min=1), help="A worker's."
)
@click.option(
    "--method",
    help="package.Service/Method whose messages have a payload as field 1; its workers must be"
    " attached.  [default: one of its own]",
)
@click.option(
    "--address",
    envvar="PLAIT_ADDRESS",
    show_envvar=True,
    metavar="HOST:PORT",
    help="A broker that runs.  [default: one of its own, in a folder of its own]",
)
@click.option(
    "--sync",
    type=click.Choice(["always", "none"]),
    default="always",
    show_default=True,
    help="Of its own broker: whether what is acknowledged is on the disk.",
)
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def bench_command(
    address: str | None, sync: str, output: str, method: str | None, **load: int
) -> None:
    """Measure Plait with Python at both ends: tasks a second, and one call at a time.

    The client is this process, the worker another one. Every result is waited for.
    """
    from plait.cli import _bench

    if method is not None:
        load["workers"] = 0
    _bench.run(_bench.Load(method=method, **load), address, sync, as_json=output == "json")
