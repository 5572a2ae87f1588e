"""What a chain of three tiers makes of the failures of its last one.

    python -m tests.load.retries                 some three minutes
    python -m tests.load.retries --calls 100     a look

Calls go from here to a first worker, from it to a second, and from that to the last, which fails
all the time, or now and then. How many attempts reach the last, for each call that was made here:
with the retry budgets, without them, and with breakers. Prints the table of REPORT.md.
"""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Mesh
from tests.support.tiers import WAIT_S, answered, first_of, last, start_tier

AT_ONCE = 16
SHARES = (1.0, 0.5, 0.1)
NO_BUDGETS = {"budget_tokens": 1_000_000_000}
WAYS: dict[str, dict[str, Any]] = {
    "with budgets": {"breaker": None},
    "without": {"breaker": None, **NO_BUDGETS},
    "with budgets and breakers": {"breaker": {}},
}
CHAINS = (("go", "python"), ("python", "go"))
HEAD = (
    "| the last tier fails | retries are bounded | chain | calls | attempts at the last tier"
    " | attempts a call | calls that failed |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Result:
    """What became of some calls."""

    calls: int
    attempts: int
    failed: int

    def row(self, *names: str) -> str:
        """A row of the table."""
        figures = (f"{self.calls:,}", f"{self.attempts:,}", f"{self.attempts / self.calls:.3f}")
        return f"| {' | '.join((*names, *figures, f'{self.failed / self.calls:.1%}'))} |"


async def failures(stub: Any, calls: int) -> int:
    """Makes so many calls, some at once, and counts those that fail."""
    left = iter(range(calls))
    failed = 0

    async def keep_calling() -> None:
        nonlocal failed
        for _ in left:
            try:
                await stub.Echo(pb.EchoRequest(), timeout=WAIT_S)
            except grpc.aio.AioRpcError:
                failed += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(keep_calling())
    return failed


async def scenario(
    folder: Path, chain: tuple[str, str], options: dict[str, Any], share: float, calls: int
) -> Result:
    """One way on a mesh of its own."""
    upper, lower = chain
    async with Mesh(folder) as mesh, mesh.caller() as caller, last(mesh) as end:
        await start_tier(mesh, lower, "Scalars", "Fail", options)
        await start_tier(mesh, upper, "Echo", "Scalars", options)
        here = NO_BUDGETS if "budget_tokens" in options else {}
        stub = first_of(caller.plait, **here)
        await answered(stub)
        end.seen.clear()
        end.failing, end.failing_share = True, share
        failed = await failures(stub, calls)
        return Result(calls, len(end.seen), failed)


async def measure(calls: int) -> None:
    """Every way, one after the other."""
    sys.stdout.write(HEAD + "\n")
    for share in SHARES:
        for name, options in WAYS.items():
            for chain in CHAINS:
                with tempfile.TemporaryDirectory() as folder:
                    result = await scenario(Path(folder), chain, options, share, calls)
                row = result.row(f"{share:.0%}", name, " over ".join(chain))
                sys.stdout.write(row + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000, help="of each row")
    asyncio.run(measure(parser.parse_args().calls))
