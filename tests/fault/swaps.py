"""Drain and swap under load: a new broker, or a new worker, takes the place of one that was told to
end by SIGTERM. Nothing acknowledged is lost, no client sees an error, and no attempt is repeated.

The load is mixed: entries of accounts, echoes, flows with children, and naps that may start once,
some longer than the broker drains. What may be repeated: an attempt that outlives its worker's
grace (30 s) or is cut by a second signal, and none of this load is; and the handler of a flow that
had children when its broker was swapped, which runs anew under the same attempt number and finds
them. What outlives the broker's grace may not be: its worker comes back with the lease. (A child
that is told to fail once has two attempts.)

`python -m tests.fault.swaps broker --swaps 60`, `python -m tests.fault.swaps workers --swaps 60`
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.fault import books
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import Execution, executions
from tests.fault.outcome import Outcome
from tests.fault.site import attached_workers, fixed_address
from tests.fault.traffic import Traffic
from tests.support.mesh import LANGUAGES, Caller, Mesh
from tests.support.processes import Process
from tests.support.requests import duration
from tests.support.waiting import eventually

ENV = {"PLAIT_BROKER_DRAIN_GRACE": "1s", "PLAIT_BROKER_REATTACH_GRACE": "60s"}
"""A short drain, so that attempts outlive it; long patience with workers that come back late on a
machine that does much else."""
SHORT_S = 0.1
LONG_S = 2.5
"""Longer than the broker drains, much shorter than an attempt may last."""
STALL_S = 60.0
SETTLE_S = 120.0
AGAIN = 'attempt > 1 AND queue != "echo.fail"'


class Calls:
    """Calls through the durable channel, each kind one after the other, until stopped."""

    def __init__(self, outcome: Outcome, caller: Caller) -> None:
        self.ended: Counter[str] = Counter()
        self._outcome = outcome
        self._caller = caller
        self._stopped = False

    async def run(self) -> None:
        """Goes on until `stop`, and ends with the last answer."""
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(self._repeat("short nap", lambda _: self._nap(SHORT_S)))
                group.create_task(self._repeat("long nap", lambda _: self._nap(LONG_S)))
            group.create_task(self._repeat("flow", self._flow))

    def stop(self) -> None:
        """Calls no more."""
        self._stopped = True

    async def _repeat(self, kind: str, call: Callable[[int], Awaitable[None]]) -> None:
        while not self._stopped:
            number = self.ended[kind]
            try:
                await call(number)
            except grpc.aio.AioRpcError as error:
                self._outcome.violated(f"a {kind}: {error.code().name} {error.details()}")
            self.ended[kind] += 1

    async def _nap(self, seconds: float) -> None:
        # At most once: what would be run again fails instead.
        await self._caller.echo.Once(pb.OnceRequest(duration=duration(seconds)))

    async def _flow(self, number: int) -> None:
        request = pb.FlowRequest(width=5, depth=2, seed=f"swaps-{number}")
        answer = await self._caller.echo.Flow(request)
        expected = sum(len(f"swaps-{number}/{child}") for child in range(5))
        said = (answer.echoed_bytes, answer.child_attempts, answer.attempt)
        self._outcome.check(said == (expected, 4, 1), f"flow {number} answered {answer}")


class Site:
    """A mesh with workers of every language, all under load."""

    def __init__(self, mesh: Mesh, caller: Caller, outcome: Outcome, each: int) -> None:
        self.counts: Counter[str] = Counter()
        self.took_s: list[float] = []
        """From SIGTERM to the end; of a broker, until every worker is attached to its successor."""
        self._mesh = mesh
        self._caller = caller
        self._outcome = outcome
        self._each = each
        self._workers: dict[str, list[Process]] = {language: [] for language in LANGUAGES}

    async def start(self) -> None:
        """Starts the workers."""
        for language in LANGUAGES:
            for _ in range(self._each):
                self._workers[language].append(await self._worker(language))

    async def swap_broker(self, _: int) -> None:
        """A new one over the same directory at the same address. The next may follow when all are
        back: a worker that no broker lets in for as long as its attempts may last loses them."""
        assert self._mesh.broker is not None
        begun = time.monotonic()
        self._ended("broker", await self._mesh.broker.terminate())
        await self._mesh.start_broker()
        everybody = len(LANGUAGES) * self._each
        await eventually(
            lambda: attached_workers(self._caller), lambda count: count == everybody, STALL_S
        )
        self.took_s.append(time.monotonic() - begun)

    async def swap_worker(self, number: int) -> None:
        """The oldest of a language, by turns; every other time its successor comes first."""
        language = LANGUAGES[number % len(LANGUAGES)]
        line = self._workers[language]
        first = number // len(LANGUAGES) % 2 == 0
        if first:
            line.append(await self._worker(language))
        begun = time.monotonic()
        self._ended(language, await line.pop(0).terminate())
        self.took_s.append(time.monotonic() - begun)
        if not first:
            line.append(await self._worker(language))

    async def _worker(self, language: str) -> Process:
        journal = {"ECHO_JOURNAL": str(self._mesh.folder / "journal.tsv")}
        return await self._mesh.start_worker(language, concurrency=16, env=journal)

    def _ended(self, name: str, code: int) -> None:
        self.counts[name] += 1
        self._outcome.check(code == 0, f"{name} ended with {code}, not 0")


async def campaign(what: str, swaps: int, folder: Path) -> Outcome:
    """Runs the whole; `what`: "broker" or "workers"."""
    invariants = ["I1", "I2", "I4", "I12", "I13"]
    outcome = Outcome(f"swap-{what}", invariants, "drain and swap under load")
    history = History(folder / "journal.tsv")
    traffic = Traffic(what, window=64, history=history)
    async with Mesh(folder, address=fixed_address(), env=ENV) as mesh, mesh.caller() as caller:
        site = Site(mesh, caller, outcome, each=1 if what == "broker" else 2)
        await site.start()
        swap = site.swap_broker if what == "broker" else site.swap_worker
        calls = Calls(outcome, caller)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            calling = group.create_task(calls.run())
            for number in range(swaps):
                async with asyncio.timeout(STALL_S):
                    await traffic.progress(100)
                    await swap(number)
            async with asyncio.timeout(SETTLE_S):
                await traffic.progress(100)
                traffic.stop()
                calls.stop()
                await running
                await calling
        again = await caller.list(AGAIN)
    judge(outcome, traffic, executions(folder / "journal.tsv"), again)
    await history.check(outcome)
    outcome.tried = site.counts.total()
    outcome.notes = ", ".join(f"{name} {count}" for name, count in site.counts.items())
    outcome.figures |= {
        "tasks": traffic.acknowledged,
        **{f"{kind}s".replace(" ", "_"): count for kind, count in calls.ended.items()},
        "attempts_repeated": len(again),
        "swap_s_max": round(max(site.took_s), 2),
    }
    return outcome.ended()


def judge(
    outcome: Outcome, traffic: Traffic, lines: list[Execution], again: list[task_pb2.Task]
) -> None:
    """Nothing is lost, and nothing was attempted twice."""
    books.audit(outcome, traffic, lines, zombies=False)
    keys = Counter(line.key for line in lines)
    for key, count in keys.items():
        outcome.check(count == 1, f"{key}: executed {count} times")
    for task in again:
        outcome.violated(f"{task.id} of {task.method} had {task.attempt} attempts")


def main() -> None:
    parser = argparse.ArgumentParser(prog="swaps", description=__doc__)
    parser.add_argument("what", choices=["broker", "workers"])
    parser.add_argument("--swaps", type=int, default=60)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-swaps-") as folder:
        run(campaign(chosen.what, chosen.swaps, Path(folder)))


if __name__ == "__main__":
    main()
