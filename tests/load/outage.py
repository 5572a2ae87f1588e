"""An outage of a downstream, with breakers and without.

    python -m tests.load.outage                  some three minutes
    python -m tests.load.outage --seconds 5      a look

A method is submitted all the while and fails for as long as its downstream is away; another method
of the same worker is called beside it. Once with the breaker of the contract, once with the breaker
turned off: how many attempts the outage burnt, how many tasks it cost, how long after it the last
task of it was done, and what the other method's callers saw. Prints the table of REPORT.md.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from testing.v1 import echo_pb2 as pb
from tests.load.contracts import push
from tests.support.mesh import ROOT, Mesh
from tests.support.waiting import elapse

CALM_S = 10.0
"""Before the outage, and after it."""
ECHO_S = 0.005
"""Between two tasks of the method that fails."""
INSPECT_S = 0.02
"""Between two calls of the other one."""
DONE_S = 180.0
"""After the last submission."""
HEAD = (
    "| | tasks submitted | attempts burnt | tasks failed for good | the last done after the end of"
    " the outage | p99 of another method before | p99 during |\n|---|---|---|---|---|---|---|"
)


@dataclass
class Seen:
    """What callers saw: when each began and ended."""

    done: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0

    def p99(self, begin: float, end: float) -> float:
        """Of the time that those took that began then, in seconds."""
        return self.quantile(99, begin, end)

    def quantile(self, percent: int, begin: float, end: float) -> float:
        """The same, of another share."""
        took = sorted(after - before for before, after in self.done if begin <= before < end)
        return took[len(took) * percent // 100] if took else 0.0


@dataclass(frozen=True)
class Result:
    """What an outage cost."""

    submitted: int
    burnt: int
    failed: int
    recovered_s: float
    calm_p99_s: float
    outage_p99_s: float

    def row(self, name: str) -> str:
        """A row of the table."""
        cells = (
            name,
            f"{self.submitted:,}",
            f"{self.burnt:,}",
            f"{self.failed:,}",
            f"{self.recovered_s:.1f} s",
            f"{self.calm_p99_s * 1000:.1f} ms",
            f"{self.outage_p99_s * 1000:.1f} ms",
        )
        return f"| {' | '.join(cells)} |"


async def keep_calling(
    call: Callable[[], Awaitable[object]], seen: Seen, every_s: float, until: float
) -> None:
    """Calls at a steady rate, whatever comes of it, and waits for the answers."""

    async def one() -> None:
        began = time.monotonic()
        try:
            await call()
        except grpc.aio.AioRpcError:
            seen.failed += 1
        seen.done.append((began, time.monotonic()))

    async with asyncio.TaskGroup() as group:
        next_at = time.monotonic()
        while next_at < until:
            group.create_task(one())
            next_at += every_s
            await elapse(max(0.0, next_at - time.monotonic()))


async def scenario(folder: Path, outage_s: float, *, breakers: bool) -> Result:
    """One outage on a mesh of its own."""
    outage = folder / "away"
    echo, inspect = Seen(), Seen()
    async with Mesh(folder) as mesh:
        program = str(ROOT / "tests/support/outage_worker.py")
        worker = await mesh.start("outage", [sys.executable, program, str(outage)])
        if not breakers:
            await push(mesh, "breaker: {disabled: true}")
        async with mesh.caller() as caller, asyncio.timeout(outage_s + 2 * CALM_S + DONE_S):
            began = time.monotonic()
            gone, back = began + CALM_S, began + CALM_S + outage_s
            request, question = pb.EchoRequest(payload=b"x" * 100), pb.InspectRequest()
            async with asyncio.TaskGroup() as group:
                for call, seen, every_s in (
                    (lambda: caller.echo.Echo(request), echo, ECHO_S),
                    (lambda: caller.echo.Inspect(question), inspect, INSPECT_S),
                ):
                    group.create_task(keep_calling(call, seen, every_s, back + CALM_S))
                await elapse(gone - time.monotonic())
                outage.touch()
                await elapse(back - time.monotonic())
                outage.unlink()
        await worker.terminate()
        said = json.loads(worker.tail().splitlines()[-1])
    return Result(
        submitted=len(echo.done),
        burnt=said["failed"],
        failed=echo.failed,
        recovered_s=max(after for before, after in echo.done if before < back) - back,
        calm_p99_s=inspect.p99(began + 1, gone),
        outage_p99_s=inspect.p99(gone, back),
    )


async def measure(seconds: float) -> None:
    """Both, one after the other."""
    rows = []
    for name, breakers in (("with breakers", True), ("without", False)):
        with tempfile.TemporaryDirectory() as folder:
            result = await scenario(Path(folder), seconds, breakers=breakers)
        rows.append(result.row(name))
    sys.stdout.write("\n".join([HEAD, *rows]) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the outage is")
    asyncio.run(measure(parser.parse_args().seconds))
