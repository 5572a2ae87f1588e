"""Connections that stall, slow down, are cut, or go half-open, between submitter, broker and
workers of every language: nothing is lost, and everything goes on by itself.

`python -m tests.fault.network --rounds 200`
"""

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path

import plait
from tests.fault import books
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.proxy import Proxy
from tests.fault.traffic import Traffic
from tests.support.mesh import LANGUAGES, Mesh
from tests.support.waiting import elapse

ENV = {"PLAIT_BROKER_HEARTBEAT_INTERVAL": "200ms", "PLAIT_BROKER_REATTACH_GRACE": "2s"}
STALL_S = 1.0
"""Longer than the silence after which worker and broker take one another for gone."""
SLOW_BYTES_PER_S = 40_000
STRIKE_S = 120.0
SETTLE_S = 180.0
FAULTS = ("cut", "stall", "slow", "half-open")


async def campaign(rounds: int, folder: Path) -> Outcome:
    """Each round strikes one link with one fault."""
    outcome = Outcome("network", ["I1", "I2", "I3", "I4", "I19"], "network fault")
    journal = folder / "journal.tsv"
    history = History(journal, zombies=True)
    traffic = Traffic("network", window=128, history=history)
    counts: Counter[str] = Counter()
    async with (
        Mesh(folder, env=ENV) as mesh,
        Proxy(mesh.address) as front,
        Proxy(mesh.address) as back,
    ):
        for language in LANGUAGES:
            env = {"ECHO_JOURNAL": str(journal), "PLAIT_ADDRESS": back.address}
            await mesh.start_worker(language, env=env)
        async with plait.connect(front.address) as client, asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(client))
            for link, fault in strikes(rounds):
                counts[f"{fault} at the {link}"] += 1
                async with asyncio.timeout(STRIKE_S):
                    await traffic.progress(20)
                    await _strike(front if link == "submitter" else back, fault, traffic)
            traffic.stop()
            async with asyncio.timeout(SETTLE_S):
                await running
    lines = executions(journal)
    books.audit(outcome, traffic, lines, zombies=True)
    await history.check(outcome)
    outcome.tried = rounds
    outcome.notes = ", ".join(f"{what}: {count}" for what, count in sorted(counts.items()))
    outcome.figures |= {
        "tasks": traffic.acknowledged,
        "executed_again": len(lines) - len(traffic.entries),
    }
    return outcome.ended()


def strikes(rounds: int) -> list[tuple[str, str]]:
    """Links and faults; every kind comes before any comes again, but for the submitter's half-open
    link, which takes half a minute to be noticed: every sixteenth."""
    kinds = [("workers", fault) for fault in FAULTS]
    kinds += [("submitter", fault) for fault in FAULTS if fault != "half-open"]
    dice = random.Random(1)
    chosen: list[tuple[str, str]] = []
    while len(chosen) < rounds:
        dice.shuffle(kinds)
        chosen += kinds
        if len(chosen) % 2 == 0:
            chosen.append(("submitter", "half-open"))
    return chosen[:rounds]


async def _strike(proxy: Proxy, fault: str, traffic: Traffic) -> None:
    if fault == "cut":
        proxy.cut()
    elif fault == "half-open":
        before = proxy.accepted
        proxy.swallow()
        while proxy.accepted == before:
            await elapse(0.05)
    elif fault == "stall":
        proxy.stall()
        await elapse(STALL_S)
        proxy.resume()
    else:
        proxy.slow(SLOW_BYTES_PER_S)
        await traffic.progress(100)
        proxy.slow(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="network", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="plait-network-") as folder:
        run(campaign(rounds, Path(folder)))


if __name__ == "__main__":
    main()
