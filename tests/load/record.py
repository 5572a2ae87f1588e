"""Records what a broker tells its scheduler under a load, for the tests of what that decides.

    python -m tests.load.record outage|slow|burst [FILE]

Without FILE it goes to services/scheduler/tests/recorded/. A line is {"at_ms", "figures"}, or
{"at_ms", "mark"}: what was done to the mesh then. Times are from the first line; workers are
worker-1 and so on.

outage: the tasks of a method fail for four seconds, those of another one beside it do not. No
breaker acts, so that what one would decide is not in the figures.
slow: three workers have more than they can do, and the last one stands still for most of ten
seconds.
burst: a worker that is half busy gets 300 tasks at once.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from testing.v1 import echo_pb2 as pb
from tests.load.contracts import push
from tests.load.outage import Seen, keep_calling
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.processes import Process
from tests.support.waiting import elapse

FOLDER = ROOT / "services/scheduler/tests/recorded"
CALM_S = 6.0
AWAY_S = 4.0
SLOW_S = 10.0
STOPPED_S, GOING_S = 0.16, 0.04
"""Of a worker that is slow."""
WORKERS = 3
SLOTS = 8
NAP_MS = 50
BUSY = ("busy_worker.py", str(SLOTS), "sleep")
AHEAD = 300


class Recorded(Mesh):
    """A mesh whose scheduler writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._marks: list[dict[str, Any]] = []
        self._own: list[Process] = []

    async def start_scheduler(self, *arguments: str) -> Process:
        """As ever, but that it records."""
        program = str(ROOT / "tests/support/recording_scheduler.py")
        command = [sys.executable, program, str(self._told), "--listen", "127.0.0.1:0"]
        self.scheduler = await self.start("scheduler", [*command, *arguments])
        return self.scheduler

    @property
    def _told(self) -> Path:
        return self.folder / "figures.jsonl"

    def mark(self, what: str) -> None:
        """Notes that something is done now."""
        self._marks.append({"at_ms": int(time.monotonic() * 1000), "mark": what})

    def lines(self) -> str:
        """All of it, in order."""
        told = [json.loads(line) for line in self._told.read_text().splitlines()]
        lines = sorted(told + self._marks, key=lambda line: line["at_ms"])
        began = lines[0]["at_ms"]
        parts = [json.dumps({**line, "at_ms": line["at_ms"] - began}) for line in lines]
        text = "".join(part + "\n" for part in parts)
        for number, worker in enumerate(self._own, 1):
            text = text.replace(worker.ready["worker"], f"worker-{number}")
        return text

    async def worker(self, program: str, *arguments: str) -> Process:
        """One more worker; worker-1 is the first."""
        command = [sys.executable, str(ROOT / "tests/support" / program), *arguments]
        self._own.append(await self.start("worker", command))
        return self._own[-1]


def nap() -> pb.SleepRequest:
    """A task that takes its time."""
    request = pb.SleepRequest()
    request.duration.FromMilliseconds(NAP_MS)
    return request


async def outage(mesh: Recorded) -> None:
    """The downstream of one method goes away."""
    away = mesh.folder / "away"
    await mesh.worker("outage_worker.py", str(away))
    await push(mesh, "breaker: {disabled: true}")
    async with mesh.caller() as caller, asyncio.TaskGroup() as group:
        end = time.monotonic() + 2 * CALM_S + AWAY_S
        request, question = pb.EchoRequest(payload=b"x"), pb.InspectRequest()
        group.create_task(keep_calling(lambda: caller.echo.Echo(request), Seen(), 0.02, end))
        group.create_task(keep_calling(lambda: caller.echo.Inspect(question), Seen(), 0.05, end))
        await elapse(CALM_S)
        away.touch()
        mesh.mark("gone")
        await elapse(AWAY_S)
        away.unlink()
        mesh.mark("back")


@asynccontextmanager
async def backlog(caller: Caller) -> AsyncIterator[None]:
    """Tasks of which enough wait at any time."""

    async def again() -> None:
        while True:
            await caller.echo.Sleep(nap())

    tasks = [asyncio.create_task(again()) for _ in range(AHEAD)]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def slow(mesh: Recorded) -> None:
    """One of three workers stands still most of the time."""
    workers = [await mesh.worker(*BUSY) for _ in range(WORKERS)]
    victim = workers[-1]
    async with mesh.caller() as caller, backlog(caller):
        await elapse(CALM_S)
        mesh.mark("slow")
        end = time.monotonic() + SLOW_S
        while time.monotonic() < end:
            victim.send(signal.SIGSTOP)
            await elapse(STOPPED_S)
            victim.send(signal.SIGCONT)
            await elapse(GOING_S)
        mesh.mark("well")
        await elapse(3 * CALM_S)
        mesh.mark("end")


async def burst(mesh: Recorded) -> None:
    """Much comes at once."""
    await mesh.worker(*BUSY)
    async with mesh.caller() as caller, asyncio.TaskGroup() as group:
        end = time.monotonic() + 4 * CALM_S
        every_s = 2 * NAP_MS / 1000 / SLOTS
        group.create_task(keep_calling(lambda: caller.echo.Sleep(nap()), Seen(), every_s, end))
        await elapse(CALM_S)
        mesh.mark("burst")
        await asyncio.gather(*(caller.echo.Sleep(nap()) for _ in range(AHEAD)))
        mesh.mark("over")


SCENES: dict[str, Callable[[Recorded], Awaitable[None]]] = {
    "outage": outage,
    "slow": slow,
    "burst": burst,
}


async def record(name: str) -> str:
    """One scene, on a mesh of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with Recorded(Path(folder)) as mesh:
            await SCENES[name](mesh)
            return mesh.lines()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("file", type=Path, nargs="?")
    said = parser.parse_args()
    text = asyncio.run(record(said.scene))
    (said.file or FOLDER / f"{said.scene}.jsonl").write_text(text)
