"""Latency of a critical method while background work saturates its worker.

    python -m tests.load.latency                  some six minutes
    python -m tests.load.latency --seconds 5      a look

A method is called at a steady rate and answers at once; another one of the same worker fills all of
its slots, asleep or burning the processors. With the latency classes of both methods, and without.
Each row is a mesh of its own, whose calls are measured idle first. Prints the table of REPORT.md.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import plait
from testing.v1 import echo_pb2 as pb
from tests.load.outage import Seen, keep_calling
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.waiting import elapse, eventually

SLOTS = 8
CALL_S = 0.05
"""Between two calls."""
BUSY_MS = 200
"""What an attempt of the background work takes."""
AHEAD = 400
"""Tasks of it that wait all the while."""
WARM_S = 2.0
INSPECT = "rpc Inspect(InspectRequest) returns (InspectResponse);"
SLEEP = 'queue: "echo.sleep"\n      attempt_timeout: {seconds: 5}'
PATIENT = 'queue: "echo.sleep" attempt_timeout: {seconds: 300}'
CLASSES = {
    INSPECT: INSPECT[:-1]
    + " { option (plait.v1.task) = { latency_class: LATENCY_CLASS_CRITICAL }; }",
    SLEEP: f"{PATIENT} latency_class: LATENCY_CLASS_BACKGROUND",
}
ROWS = (
    ("sleeps", "sleep", False),
    ("sleeps", "sleep", True),
    ("burns the processors", "burn", False),
    ("burns the processors", "burn", True),
    ("burns them while nobody else wants them", "burn-idle", True),
)
"""The work, how the worker does it, and whether the methods have latency classes."""
HEAD = (
    "| background work | latency classes | p50 idle | p50 beside it | p99 idle | p99 beside it"
    " | times the idle p99 | background tasks a second |\n|---|---|---|---|---|---|---|---|"
)


async def push(mesh: Mesh, *, classes: bool) -> None:
    """Puts the contract in force, with the latency classes or without."""
    source = (ROOT / "proto/testing/v1/echo.proto").read_text()
    for place, text in (CLASSES if classes else {SLEEP: PATIENT}).items():
        assert source.count(place) == 1, place
        source = source.replace(place, text)
    path = mesh.folder / "classes/testing/v1/echo.proto"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    pushing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "contract", "push", str(path)),
        *("-I", str(mesh.folder / "classes"), "--service", "testing.v1.EchoService"),
        *("--address", mesh.address),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await pushing.wait() != 0:
        raise RuntimeError("the contract was refused")


class Backlog:
    """Background tasks of which enough wait at any time."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.done = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AHEAD):
                group.create_task(self._again())

    async def _again(self) -> None:
        request = pb.SleepRequest()
        request.duration.FromMilliseconds(BUSY_MS)
        while True:
            await self._caller.echo.Sleep(request)
            self.done += 1

    async def count(self) -> int:
        """How many are done."""
        return self.done


async def row(folder: Path, name: str, work: str, seconds: float, *, classes: bool) -> str:
    """One mesh: idle, then with the background work."""
    program = str(ROOT / "tests/support/busy_worker.py")
    async with Mesh(folder) as mesh:
        worker = await mesh.start("busy", [sys.executable, program, str(SLOTS), work])
        await push(mesh, classes=classes)
        async with mesh.caller() as caller, plait.connect(mesh.address) as own:
            question = pb.InspectRequest()
            spans = []
            other = Caller(own, type(caller.echo)(own.channel()), caller.tasks)
            backlog = Backlog(other)
            seen = Seen()

            async def measure() -> None:
                end = time.monotonic() + seconds
                await keep_calling(lambda: caller.echo.Inspect(question), seen, CALL_S, end)
                spans.append((end - seconds, end))

            await keep_calling(
                lambda: caller.echo.Inspect(question), Seen(), CALL_S, time.monotonic() + WARM_S
            )
            await measure()
            background = asyncio.create_task(backlog.run())
            await eventually(backlog.count, lambda done: done >= 3 * SLOTS, 120.0)
            await elapse(WARM_S)
            before, began = backlog.done, time.monotonic()
            await measure()
            rate = (backlog.done - before) / (time.monotonic() - began)
            background.cancel()
            await asyncio.wait([background])
            # So that the processes that burn end, too.
            await worker.terminate()
    if seen.failed:
        raise RuntimeError(f"{seen.failed} calls failed")
    idle, busy = ([seen.quantile(share, *span) for share in (50, 99)] for span in spans)
    cells = (
        name,
        "with" if classes else "without",
        *(f"{1000 * value:.1f} ms" for pair in zip(idle, busy, strict=True) for value in pair),
        f"{busy[1] / idle[1]:.1f}",
        f"{rate:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def say(line: str) -> None:
    """A line of the table, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def run(seconds: float) -> None:
    """All rows, one after the other."""
    say(HEAD)
    for name, work, classes in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            say(await row(Path(folder), name, work, seconds, classes=classes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of calls, idle and busy each")
    asyncio.run(run(parser.parse_args().seconds))
