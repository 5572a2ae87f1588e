"""kill -9 of every process under load: nothing acknowledged is lost, every task ends with the right
answer, and the effect of a key happens once.

`python -m tests.fault.kills --kills 2000`
"""

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.fault import books
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import fixed_address
from tests.fault.traffic import Traffic
from tests.support.mesh import LANGUAGES, Mesh
from tests.support.processes import Process

SETTLE_S = 120.0
"""How long the tasks may take to end after the last fault: leases and backoffs of seconds."""
STALL_S = 60.0
"""How long no result may come while processes die."""
GRACE = {"PLAIT_BROKER_REATTACH_GRACE": "2s"}
"""Leases of a worker that died while the broker was down are waited for; 10 s by default, which
would be most of the campaign."""
WEIGHTS = {"go": 8, "rust": 8, "python": 2, "scheduler": 1}
"""How often a process is chosen; Python ones take a second of a core to start."""


@dataclass(frozen=True)
class Size:
    """How much to do."""

    kills: int = 40
    window: int = 512
    seed: int = 1
    results_between: int = 30
    """Between two kills of the broker at most so many results come."""


class Killer:
    """Kills and starts again."""

    def __init__(self, mesh: Mesh, traffic: Traffic, size: Size, journal: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._mesh = mesh
        self._traffic = traffic
        self._size = size
        self._journal = {"ECHO_JOURNAL": str(journal)}
        self._workers: dict[str, Process] = {}
        # A scheduler is ready when it observes the broker, for which the broker has to live a
        # moment: longer, beside a busy load, than the fast cycle of kills leaves it.
        self._calm = asyncio.Lock()

    @property
    def _done(self) -> bool:
        return self.counts.total() >= self._size.kills

    async def start_workers(self) -> None:
        """One of each language."""
        for language in LANGUAGES:
            self._workers[language] = await self._start(language)

    async def brokers(self) -> None:
        """Kills the broker, again and again, at any moment after it serves again."""
        dice = random.Random(self._size.seed)
        while not self._done:
            async with asyncio.timeout(STALL_S):
                await self._traffic.progress(dice.randint(1, self._size.results_between))
            assert self._mesh.broker is not None
            async with self._calm:
                self.counts["broker"] += 1
                await self._mesh.broker.kill()
                await self._mesh.start_broker()

    async def others(self) -> None:
        """Kills workers and the scheduler meanwhile."""
        dice = random.Random(self._size.seed + 1)
        while not self._done:
            victim = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            self.counts[victim] += 1
            if victim == "scheduler":
                assert self._mesh.scheduler is not None
                await self._mesh.scheduler.kill()
                async with self._calm:
                    await self._mesh.start_scheduler()
            else:
                await self._workers[victim].kill()
                self._workers[victim] = await self._start(victim)
            async with asyncio.timeout(STALL_S):
                await self._traffic.progress(dice.randint(1, self._size.results_between))

    async def _start(self, language: str) -> Process:
        return await self._mesh.start_worker(language, concurrency=16, env=self._journal)


async def campaign(size: Size, folder: Path) -> Outcome:
    """Runs the whole."""
    outcome = Outcome("kills", ["I1", "I2", "I4", "I19"], "kill -9")
    journal = folder / "journal.tsv"
    history = History(journal)
    traffic = Traffic("kills", window=size.window, accounts=200, history=history)
    async with Mesh(folder, address=fixed_address(), env=GRACE) as mesh, mesh.caller() as caller:
        killer = Killer(mesh, traffic, size, journal)
        await killer.start_workers()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            async with asyncio.TaskGroup() as killers:
                killers.create_task(killer.brokers())
                killers.create_task(killer.others())
            traffic.stop()
            async with asyncio.timeout(SETTLE_S):
                await running
    lines = executions(journal)
    books.audit(outcome, traffic, lines, zombies=False)
    await history.check(outcome)
    outcome.tried = killer.counts.total()
    outcome.notes = ", ".join(f"{name} {count}" for name, count in killer.counts.most_common())
    outcome.figures |= {
        "tasks": traffic.acknowledged,
        "entries": len(traffic.entries),
        "executions": len(lines),
        "executed_again": len(lines) - len(traffic.entries),
        "echoes_gone_unread": traffic.unread,
        "kills": dict(killer.counts),
        "seed": size.seed,
    }
    return outcome.ended()


def main() -> None:
    parser = argparse.ArgumentParser(prog="kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-kills-") as folder:
        run(campaign(Size(kills=chosen.kills, seed=chosen.seed), Path(folder)))


if __name__ == "__main__":
    main()
