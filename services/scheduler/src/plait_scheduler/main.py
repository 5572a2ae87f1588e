"""The command `plait-scheduler`: reads flags and environment, runs the scheduler until SIGTERM or
SIGINT.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from plait import trace
from plait_scheduler.dev import command as dev
from plait_scheduler.logs import configure_logs
from plait_scheduler.scheduler import Scheduler
from plait_scheduler.settings import Settings

USAGE_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs to the end. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["dev"]:
        return dev.main(arguments[1:])
    flags = {
        name: value
        for name, value in vars(_parser().parse_args(arguments)).items()
        if value is not None
    }
    try:
        settings = Settings(**flags)
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            sys.stderr.write(f"plait-scheduler: {name}: {fault['msg']}\n")
        return USAGE_ERROR
    configure_logs(settings.log_format, settings.log_level)
    trace.configure("scheduler")
    return asyncio.run(_serve(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plait-scheduler",
        description="Decides on contracts, policies and windows for a broker.",
        epilog="Every flag is a variable as well: --log-level is PLAIT_SCHEDULER_LOG_LEVEL.",
    )
    parser.add_argument(
        "--broker", metavar="HOST:PORT", help="the broker (PLAIT_ADDRESS; 127.0.0.1:7420)"
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="own port, 0 for any (127.0.0.1:7423)"
    )
    parser.add_argument(
        "--metrics-listen", metavar="HOST:PORT", help="port of /metrics, 0 for any (none)"
    )
    parser.add_argument(
        "--dev",
        action="store_true",
        default=None,
        help="tolerate breaking contracts; reflection on",
    )
    parser.add_argument(
        "--figures-interval-ms", metavar="N", help="how often figures are observed (1000)"
    )
    parser.add_argument(
        "--lease-ms", metavar="N", help="silence after which another one leads (2500)"
    )
    parser.add_argument("--drain-ms", metavar="N", help="how long SIGTERM waits (10000)")
    parser.add_argument("--log-format", metavar="FORMAT", help="auto, json or console (auto)")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (info)")
    return parser


async def _serve(settings: Settings) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping)
    try:
        scheduler = Scheduler(settings)
        await scheduler.run(
            stopping, lambda address: _tell_ready(address, scheduler.metrics_address)
        )
    except RuntimeError as error:
        sys.stderr.write(f"plait-scheduler: {error}\n")
        return 1
    return 0


def _stop(stopping: asyncio.Event) -> None:
    """The first signal drains, the second one means now: an exception would wait for gRPC."""
    if stopping.is_set():
        os._exit(INTERRUPTED)
    stopping.set()


def _tell_ready(address: str, metrics: str) -> None:
    """The readiness line, the only thing that is ever written to stdout."""
    ready = {"event": "ready", "process": "scheduler", "address": address}
    if metrics:
        ready["metrics"] = metrics
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
