"""The marks, and RESULTS.md."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

Line = dict[str, Any]

MARKS: dict[str, tuple[int, float] | None] = {
    "rust": (200_000, 0.9),
    "go": (120_000, 0.9),
    "python": (40_000, 1.3),
    "typescript": None,
}
"""Synced, on two cores: at least so many tasks a second, and at most this p50 in milliseconds. A
language without a mark is measured all the same."""

_TEMPLATE = """\
# Results

Written by `make bench`, {date}, on {machine}.
Everything (broker, scheduler, client, worker) shares these cores; loopback; a broker over an empty
folder for each round; the median of {rounds} rounds, taken by turns. Ratios hold better than
figures: read ± 20 %. Load average of the machine when it began: {load:.1f}; over 0.5, something
else was running too, and the figures are lower than they should be.

| language | mode | tasks/s | to Rust | mark | p50 ms | mark | p99 ms |
|---|---|---|---|---|---|---|---|
{rows}

- **tasks/s**: a client and a worker of that language, 256 B in and 256 B out, a closed loop with
  4,096 to 8,192 tasks under way; from the first submission to the last result. Rust and Go have
  client and worker in one process, Python and TypeScript in two.
- **p50, p99**: one call at a time through the durable channel, from submission to result: two
  syncs and four hops.
- **synced**: nothing is acknowledged before it is on the disk (`--sync always`, the default).
  Unsynced (`--sync none`): the operating system writes when it likes.

To repeat: `make bench` (minutes), or `make bench-quick` (one short round, synced; prints JSON lines
and writes nothing). The programs: `sdk/rust/examples/bench.rs`, `sdk/go/cmd/plait-bench-go`,
`plait bench`, `interop/drivers/typescript/src/bench.ts`; the runner: `bench/run.py`.
"""


def missed(lines: list[Line]) -> list[str]:
    """A sentence for each mark that synced figures miss."""
    sentences = []
    for line in lines:
        if not line["synced"] or (mark := MARKS[line["language"]]) is None:
            continue
        tasks, p50 = mark
        if line["tasks_per_s"] < tasks:
            sentences.append(
                f"{line['language']}: {line['tasks_per_s']:,.0f} tasks/s, the mark is {tasks:,}"
            )
        if line["p50_ms"] > p50:
            sentences.append(f"{line['language']}: p50 {line['p50_ms']} ms, the mark is {p50}")
    return sentences


def write(path: Path, lines: list[Line], rounds: int, load: float) -> None:
    """Writes the table of a full run; `load` is the load average before it."""
    rust = {line["synced"]: line["tasks_per_s"] for line in lines if line["language"] == "rust"}
    path.write_text(
        _TEMPLATE.format(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            rounds=rounds,
            load=load,
            rows="\n".join(_row(line, rust[line["synced"]]) for line in lines),
        )
    )


def _row(line: Line, rust: float) -> str:
    mark = MARKS[line["language"]]
    marks = (f"≥ {mark[0]:,}", f"≤ {mark[1]}") if mark and line["synced"] else ("", "")
    cells = (
        line["language"],
        "synced" if line["synced"] else "unsynced",
        f"{line['tasks_per_s']:,.0f}",
        f"{line['tasks_per_s'] / rust:.2f}",
        marks[0],
        f"{line['p50_ms']:.2f}",
        marks[1],
        f"{line['p99_ms']:.2f}",
    )
    return "| " + " | ".join(cells) + " |"
