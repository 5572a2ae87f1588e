"""The wall clock of the broker's machine is stepped, by an hour and by two days, both ways, under
load: no task ends early for it, none waits for the clock to catch up, and nothing is lost.

A step while it runs is felt by nothing, since it lives by the monotonic clock. A restart reads the
wall clock: one that went back must not keep what is due waiting. (One that went forward counts as
time that has passed, as SEMANTICS has it, so deadlines end; that is not tried here.)

`python -m tests.fault.clocks --rounds 60`
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

import plait
from testing.v1 import echo_pb2 as pb
from tests.fault import books, tools
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import fixed_address
from tests.fault.traffic import Traffic
from tests.support.mesh import Caller, Mesh

HOUR_S = 3600
STEPS = (HOUR_S, -HOUR_S, 48 * HOUR_S, -48 * HOUR_S)
DELAY_S = 0.5
DUE_S = 60.0
"""By then a task that was delayed has ended, on the busiest machine."""
SETTLE_S = 120.0


class WallClock:
    """The wall clock of the processes that run `under` it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._offset = 0
        self.step(0)
        self.under = [
            "env",
            f"LD_PRELOAD={tools.CLOCK_LIBRARIES[0]}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]

    def step(self, seconds: int) -> None:
        """Steps it, from what it is now."""
        self._offset += seconds
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{self._offset:+d}s\n")
        fresh.rename(self._file)


async def campaign(rounds: int, folder: Path) -> Outcome:
    """Runs the whole: steps by turns, every third one with a restart."""
    tools.require(tools.have_clocks(), "this needs libfaketime")
    outcome = Outcome("clocks", ["I1", "I2", "I4", "I6", "I18"], "clock step")
    clock = WallClock(folder)
    journal = folder / "journal.tsv"
    history = History(journal)
    traffic = Traffic("clocks", window=64, history=history)
    counts: Counter[str] = Counter()
    async with (
        Mesh(folder, address=fixed_address(), under=clock.under) as mesh,
        mesh.caller() as caller,
    ):
        for language in ("go", "rust"):
            await mesh.start_worker(language, env={"ECHO_JOURNAL": str(journal)})
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            for number in range(rounds):
                restart = number % 3 == 2
                step = -abs(STEPS[number % 4]) if restart else STEPS[number % 4]
                counts[f"{step:+d} s{' and a restart' if restart else ''}"] += 1
                async with asyncio.timeout(SETTLE_S):
                    await traffic.progress(20)
                    await _one(outcome, mesh, caller, clock, step, restart=restart)
            traffic.stop()
            async with asyncio.timeout(SETTLE_S):
                await running
    lines = executions(journal)
    books.audit(outcome, traffic, lines, zombies=False)
    await history.check(outcome)
    outcome.tried = rounds
    outcome.notes = ", ".join(f"{what}: {count}" for what, count in counts.items())
    outcome.figures |= {"tasks": traffic.acknowledged}
    return outcome.ended()


async def _one(
    outcome: Outcome, mesh: Mesh, caller: Caller, clock: WallClock, step: int, *, restart: bool
) -> None:
    """A delayed task is submitted; the clock is stepped; the task starts when it is due."""
    begun = time.monotonic()
    with plait.options(delay=DELAY_S):
        task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"later"))
    clock.step(step)
    if restart:
        assert mesh.broker is not None
        await mesh.broker.kill()
        await mesh.start_broker(under=clock.under)
    try:
        async with asyncio.timeout(DUE_S):
            await task.result()
    except TimeoutError:
        outcome.violated(f"after a step of {step} s a task that was due has not ended")
        return
    took = time.monotonic() - begun
    outcome.check(
        took >= DELAY_S, f"after a step of {step} s a task ended after {took:.3f} s, too early"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="clocks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="plait-clocks-") as folder:
        run(campaign(rounds, Path(folder)))


if __name__ == "__main__":
    main()
