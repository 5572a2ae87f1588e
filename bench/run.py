"""Measures Plait: for each language a client and a worker of that language against a broker and a
scheduler of its own, started here over an empty folder.

    python -m bench.run            three rounds, synced and not; writes RESULTS.md beside this file
    python -m bench.run --quick    one short round, synced

Prints one JSON line for each language and mode. The binaries are those in PLAIT_BIN, as
`.ci/build.sh release bench` makes them. What is measured is in RESULTS.md.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import results
from plait.testing import Mesh

ROOT = Path(__file__).parents[1]
SIZE_BYTES = 256
LIMIT_S = 300
"""A round of one language takes seconds; beyond this something hangs."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """The bench program of one language."""

    language: str
    command: tuple[str, ...]
    bulk_flag: str
    single_flag: str
    tasks: int
    """In a full round: a few seconds of work."""

    def arguments(self, *, quick: bool) -> list[str]:
        """The whole command."""
        tasks, singles = (self.tasks // 4, 500) if quick else (self.tasks, 2000)
        return [*self.command, self.bulk_flag, str(tasks), self.single_flag, str(singles)]


def programs(binaries: Path) -> list[Program]:
    """Of every language. The windows, 4096 to 8192 tasks under way, are the programs' defaults."""
    size = ("--size", str(SIZE_BYTES))
    rust = (str(binaries / "plait-bench-rust"), *size)
    go = (str(binaries / "plait-bench-go"), *size)
    python = (sys.executable, "-m", "plait.cli", "bench", "--output", "json", *size)
    typescript = (str(binaries / "plait-bench-typescript"), *size)
    return [
        Program("rust", rust, "--tasks", "--single", 1_000_000),
        Program("go", go, "--tasks", "--single", 600_000),
        Program("python", python, "--tasks", "--calls", 240_000),
        Program("typescript", typescript, "--tasks", "--single", 120_000),
    ]


@contextlib.contextmanager
def fresh_mesh(sync: str) -> Iterator[str]:
    """The address of a broker over an empty folder on the disk that holds the repository."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder,
        Mesh(Path(folder), broker_arguments=["--sync", sync]) as mesh,
    ):
        yield mesh.address


def measure(program: Program, sync: str, *, quick: bool) -> Line:
    """One round of one language."""
    with fresh_mesh(sync) as address:
        ran = subprocess.run(
            program.arguments(quick=quick),
            env={**os.environ, "PLAIT_ADDRESS": address},
            stdout=subprocess.PIPE,
            timeout=LIMIT_S,
            check=True,
        )
    line: Line = json.loads(ran.stdout)
    assert line["language"] == program.language
    # The broker's own word, which the program passes on.
    assert line["synced"] == (sync == "always")
    return line


def median(lines: list[Line]) -> Line:
    """The median of each figure over the rounds of one language and mode."""
    figures = ("tasks_per_s", "p50_ms", "p99_ms")
    middle = {name: round(statistics.median(line[name] for line in lines), 3) for name in figures}
    return {"language": lines[0]["language"], **middle, "synced": lines[0]["synced"]}


def main() -> None:
    """Measures, prints, and writes the results of a full run."""
    parser = argparse.ArgumentParser(description="Measure Plait in every language.")
    parser.add_argument("--quick", action="store_true", help="one short round, synced")
    parser.add_argument("--language", choices=list(results.MARKS), action="append")
    options = parser.parse_args()
    binaries = Path(os.environ.get("PLAIT_BIN", ROOT / "build/release")).resolve()
    os.environ["PLAIT_BROKER"] = str(binaries / "plait-broker")
    chosen = [p for p in programs(binaries) if p.language in (options.language or p.language)]
    modes = ["always"] if options.quick else ["always", "none"]
    rounds = 1 if options.quick else 3
    load = os.getloadavg()[0]
    medians = []
    for sync in modes:
        # By turns, so that what else the machine does falls on all of them.
        lines: dict[str, list[Line]] = {program.language: [] for program in chosen}
        for _ in range(rounds):
            for program in chosen:
                lines[program.language].append(measure(program, sync, quick=options.quick))
        for each in lines.values():
            medians.append(median(each))
            print(json.dumps(medians[-1]), flush=True)
    for missed in results.missed(medians):
        print(missed, file=sys.stderr)
    if not options.quick and options.language is None:
        results.write(Path(__file__).with_name("RESULTS.md"), medians, rounds, load)


if __name__ == "__main__":
    main()
