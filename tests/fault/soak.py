"""Hours of mixed load with random kills: is anything lost, and does anything grow?

Memory and open descriptors of the broker and of what lives long beside it are taken every few
seconds, their slopes told, and both plotted. A process that was killed starts a new curve; slopes
are those of the broker's longest life, without its first tenth.

`python -m tests.fault.soak --hours 1`; writes build/fault/soak.json and soak.png.
"""

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from testing.v1 import echo_pb2 as pb
from tests.fault import books, outcome
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import fixed_address, resident_bytes
from tests.fault.traffic import Traffic
from tests.support.mesh import LANGUAGES, Caller, Mesh
from tests.support.processes import Process
from tests.support.waiting import elapse

SETTLE_S = 120.0
KILLS_AN_HOUR = 60
BROKER_SHARE = 0.2
"""Of the kills. The rest are workers and the scheduler."""
PAUSE_S = 0.01
"""Between submissions of a kind: some 180 tasks a second, which leaves room for what dies."""
SAMPLES = 400
GROWTH_MIB_AN_HOUR_MAX = 64.0
"""Steady load on a broker whose retention is over: what is above this is a leak."""
SHORT_LIFE_S = 1200.0
"""The contract keeps tasks for ten minutes; the slope of a shorter life tells of that."""


@dataclass
class Curve:
    """What was taken of one life of a process."""

    name: str
    pid: int
    at: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def take(self, now: float) -> None:
        """Takes a sample. Raises OSError when the process is gone."""
        mib = resident_bytes(self.pid) / (1 << 20)
        descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
        if mib == 0:
            # Killed, and not yet waited for.
            return
        self.at.append(now)
        self.mib.append(mib)
        self.descriptors.append(descriptors)

    @property
    def life(self) -> float:
        """Seconds between the first sample and the last."""
        return self.at[-1] - self.at[0] if self.at else 0.0

    def slope_an_hour(self, values: list[float]) -> float:
        """Of a line through all but the first tenth."""
        skip = len(values) // 10
        if len(values) - skip < 3:
            return 0.0
        line = statistics.linear_regression(self.at[skip:], values[skip:])
        return line.slope * 3600


class Watch:
    """Samples every process of a mesh, by turns of all."""

    def __init__(self) -> None:
        self.curves: dict[int, Curve] = {}
        self._begun = time.monotonic()

    def take(self, mesh: Mesh) -> None:
        """One sample of each process that lives."""
        now = time.monotonic() - self._begun
        for process in mesh.processes:
            if process.running:
                curve = self.curves.setdefault(process.pid, Curve(process.name, process.pid))
                try:
                    curve.take(now)
                except OSError:
                    continue

    def longest(self, name: str) -> Curve:
        """The longest life of a process."""
        lives = [curve for curve in self.curves.values() if curve.name == name]
        return max(lives, key=lambda curve: curve.life)

    def plot(self, path: Path) -> None:
        """Both figures of all processes over time, as PNG."""
        figure = Figure(figsize=(11, 8), layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True)
        names = sorted({curve.name for curve in self.curves.values()})
        told: set[str] = set()
        for curve in self.curves.values():
            color = f"C{names.index(curve.name)}"
            label = None if curve.name in told else curve.name
            told.add(curve.name)
            minutes = [at / 60 for at in curve.at]
            above.plot(minutes, curve.mib, color=color, label=label, linewidth=1)
            below.plot(minutes, curve.descriptors, color=color, linewidth=1)
        above.set_ylabel("resident memory, MiB")
        below.set_ylabel("open descriptors")
        below.set_xlabel("minutes")
        above.legend(loc="upper left", ncols=len(names))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


async def campaign(hours: float, folder: Path, picture: Path) -> Outcome:
    """Runs the whole."""
    result = Outcome("soak", ["I1", "I2", "I4", "I10", "I19"], "second of load with kills")
    seconds = hours * 3600
    journal = folder / "journal.tsv"
    history = History(journal)
    traffic = Traffic("soak", window=128, pause_s=PAUSE_S, history=history)
    watch, counts = Watch(), Counter[str]()
    async with Mesh(folder, address=fixed_address()) as mesh, mesh.caller() as caller:
        env = {"ECHO_JOURNAL": str(journal)}
        workers = {each: await mesh.start_worker(each, env=env) for each in LANGUAGES}
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            over = time.monotonic() + seconds
            flows = group.create_task(_flows(result, caller, over))
            kills = group.create_task(_kills(mesh, workers, env, counts, over))
            while time.monotonic() < over:
                watch.take(mesh)
                await elapse(min(seconds / SAMPLES, max(0.0, over - time.monotonic())))
            await kills
            async with asyncio.timeout(SETTLE_S):
                await flows
                traffic.stop()
                await running
    lines = executions(journal)
    books.audit(result, traffic, lines, zombies=False)
    await history.check(result)
    watch.plot(picture)
    _tell(result, watch, traffic, counts, seconds)
    return result.ended()


async def _flows(result: Outcome, caller: Caller, over: float) -> None:
    """Flows of a few children, one after the other."""
    number = 0
    while time.monotonic() < over:
        number += 1
        request = pb.FlowRequest(width=5, depth=2, seed=f"soak-{number}")
        expected = sum(len(f"soak-{number}/{child}") for child in range(5))
        answer = await caller.echo.Flow(request)
        result.check(answer.echoed_bytes == expected, f"flow {number} answered {answer}")


async def _kills(
    mesh: Mesh, workers: dict[str, Process], env: dict[str, str], counts: Counter[str], over: float
) -> None:
    """Kills at random, at the rate of KILLS_AN_HOUR, and starts again."""
    dice = random.Random(1)
    while True:
        pause = dice.expovariate(KILLS_AN_HOUR / 3600)
        if time.monotonic() + pause > over:
            return
        await elapse(pause)
        victim = "broker" if dice.random() < BROKER_SHARE else dice.choice([*workers, "scheduler"])
        counts[victim] += 1
        if victim == "broker":
            assert mesh.broker is not None
            await mesh.broker.kill()
            await mesh.start_broker()
        elif victim == "scheduler":
            assert mesh.scheduler is not None
            await mesh.scheduler.kill()
            await mesh.start_scheduler()
        else:
            await workers[victim].kill()
            workers[victim] = await mesh.start_worker(victim, env=env)


def _tell(
    result: Outcome, watch: Watch, traffic: Traffic, counts: Counter[str], seconds: float
) -> None:
    broker = watch.longest("broker")
    growth = broker.slope_an_hour(broker.mib)
    if broker.life > SHORT_LIFE_S:
        limit = GROWTH_MIB_AN_HOUR_MAX
        result.check(growth < limit, f"the broker grows by {growth:.0f} MiB an hour")
    most: defaultdict[str, int] = defaultdict(int)
    for curve in watch.curves.values():
        most[curve.name] = max([most[curve.name], *curve.descriptors])
    result.tried = round(seconds)
    result.notes = f"kills: {', '.join(f'{k} {n}' for k, n in counts.most_common()) or 'none'}"
    result.figures |= {
        "tasks": traffic.acknowledged,
        "broker_longest_life_s": round(broker.life),
        "broker_mib_max": round(max(broker.mib)),
        "broker_mib_slope_an_hour": round(growth, 1),
        "broker_descriptor_slope_an_hour": round(
            broker.slope_an_hour([float(n) for n in broker.descriptors]), 2
        ),
        **{f"{name}_descriptors_max": count for name, count in sorted(most.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    hours = parser.parse_args().hours
    with tempfile.TemporaryDirectory(prefix="plait-soak-") as folder:
        run(campaign(hours, Path(folder), outcome.folder() / "soak.png"))


if __name__ == "__main__":
    main()
