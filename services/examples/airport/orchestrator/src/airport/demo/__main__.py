"""`python -m airport.demo`: settles the flights of 2013 under fire and proves the books.

Exits 1 when they are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from rich.console import Console

from airport.demo.driver import Options, run
from airport.demo.stack import StackError

EXAMPLE = Path(__file__).parents[4]
"""The folder of the airport example, which holds the tariff."""


def main() -> int:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="airport-demo", description=__doc__)
    add = parser.add_argument
    add("--flights", type=int, default=0, help="the first N flights only; 0: all 336,776")
    add("--batch", type=int, default=100, help="flights in a batch (default 100)")
    add(
        "--folder",
        type=Path,
        default=Path("build/demo"),
        help="for data and reports; emptied first",
    )
    add("--latency", default="2ms", help="of the reference service (default 2ms)")
    add("--fail-permille", type=int, default=5, help="its requests that fail (default 5)")
    add("--no-kill", action="store_true", help="leave the processes alone")
    found = parser.parse_args()
    if found.flights < 0 or found.batch < 1:
        parser.error("--flights must not be negative and --batch at least 1")
    binaries = os.environ.get("PLAIT_BIN")
    if not binaries:
        parser.error("PLAIT_BIN names no folder with the binaries; use `make demo`")
    options = Options(
        flights_max=found.flights,
        batch_size=found.batch,
        binaries=Path(binaries).resolve(),
        folder=found.folder.resolve(),
        tariff=EXAMPLE / "tariff.toml",
        latency=found.latency,
        fail_permille=found.fail_permille,
        kill=not found.no_kill,
    )
    console = Console()
    try:
        return asyncio.run(run(options, console))
    except StackError as error:
        console.print(f"[bold red]{error}[/]")
        return 1


if __name__ == "__main__":
    sys.exit(main())
