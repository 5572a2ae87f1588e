"""Throughput under limits, and without.

    python -m tests.load.limits                  some five minutes
    python -m tests.load.limits --tasks 20000    a look

A client and a worker of Rust, each a process of its own, on a mesh of their own for each row:
tasks of a thousand keys, submitted in bulk with their results. The rows go by turns, five times. A
row is the median, and its share the median of those of each turn. Prints the table of REPORT.md.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.load.contracts import BREAKER, push
from tests.support.mesh import ROOT, Mesh

KEYS = 1000
ROUNDS = 5
SIZE_BYTES = 16
"""A key is its payload in hexadecimal digits, so of the length of a UUID."""
LIMIT_S = 300.0
CASES = {
    "no limits": "",
    "a rate and a number at once of the method, far away": (
        "rate_limit {limit: 1000000000} concurrency {limit: 1000000}"
    ),
    "a rate and a number at once of each of 1,000 keys, far away": (
        'rate_limit {limit: 1000000 key: "payload"}'
        ' concurrency {key: "payload" per_key_limit: 1000000}'
    ),
    "four at once of each of 1,000 keys": 'concurrency {key: "payload" per_key_limit: 4}',
    "one at once of each of 1,000 keys": 'concurrency {key: "payload" per_key_limit: 1}',
}
HEAD = "| | tasks a second | of those without limits |\n|---|---|---|"


async def tasks_per_s(folder: Path, limits: str, tasks: int) -> float:
    """What the client measures on a mesh of its own."""
    program = str(Path(os.environ["PLAIT_BIN"]) / "plait-bench-rust")
    async with Mesh(folder) as mesh, asyncio.timeout(LIMIT_S):
        worker = await mesh.start("bench", [program, "--role", "worker"])
        if limits:
            await push(mesh, f"{BREAKER} {limits}")
        client = await asyncio.create_subprocess_exec(
            *(program, "--role", "client", "--tasks", str(tasks), "--single", "10"),
            *("--size", str(SIZE_BYTES), "--keys", str(KEYS)),
            env={**os.environ, "PLAIT_ADDRESS": mesh.address},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await client.communicate()
        await worker.terminate()
    return float(json.loads(said)["tasks_per_s"])


async def measure(tasks: int) -> None:
    """All of them, by turns."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, limits in CASES.items():
            with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
                found[name].append(await tasks_per_s(Path(folder), limits, tasks))
    rows = [
        f"| {name} | {statistics.median(rates):,.0f} | {share(rates, found['no limits']):.2f} |"
        for name, rates in found.items()
    ]
    sys.stdout.write("\n".join([HEAD, *rows]) + "\n")


def share(rates: list[float], free: list[float]) -> float:
    """The median over the rounds, since the machine is not the same from one to the next."""
    return statistics.median(a / b for a, b in zip(rates, free, strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=400_000, help="of each round")
    asyncio.run(measure(parser.parse_args().tasks))
