"""kill -9 of each process in turn, under load: nothing is lost, and nothing is done twice."""

import asyncio
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.support.load import ACCOUNTS, Load, entries
from tests.support.mesh import ROOT, Caller, Mesh

COUNT = 2000
PATIENCE_S = 50

Kill = Callable[[], Awaitable[None]]


async def broker(mesh: Mesh) -> None:
    """Kills the broker; it comes back on its address, over its data."""
    assert mesh.broker is not None
    await mesh.broker.kill()
    await mesh.start_broker()


async def scheduler(mesh: Mesh) -> None:
    """Kills the scheduler; it comes back."""
    assert mesh.scheduler is not None
    await mesh.scheduler.kill()
    await mesh.start_scheduler()


async def under_load(mesh: Mesh, name: str, kill: Kill) -> Load:
    """Runs a load and kills twice in the middle of it."""
    load = Load(name, COUNT)
    async with mesh.caller() as caller, asyncio.timeout(PATIENCE_S):
        running = asyncio.ensure_future(load.run(caller.plait))
        await load.at_least(COUNT // 10)
        await kill()
        await load.at_least(COUNT // 2)
        await kill()
        await running
        await all_done_once(caller, load)
    return load


async def all_done_once(caller: Caller, load: Load) -> None:
    """As many tasks as entries, each completed once; and their keys still lead to them."""
    tasks = await caller.list('queue = "echo.append"')
    assert len(tasks) == COUNT
    assert {task.id for task in tasks} == load.ids
    assert {task.state for task in tasks} == {task_pb2.TASK_STATE_SUCCEEDED}
    sample = [task.id for task in tasks if task.attempt > 1][:50]
    for task_id in sample:
        causes = [event.cause for event in (await caller.get(task_id, full=True)).events]
        assert causes.count("COMPLETED") == 1
    again = {
        task.id
        async for task in caller.plait.submit_many(caller.echo.Append, entries(load.name, COUNT))
    }
    assert again == load.ids


@pytest.mark.parametrize("victim", [broker, scheduler], ids=lambda victim: victim.__name__)
async def test_a_process_in_the_middle_is_killed(
    fresh: Mesh, language: str, victim: Callable[[Mesh], Awaitable[None]], name: str
):
    """The only worker lives on, holds its leases, and so runs nothing twice."""
    await fresh.start_worker(language)
    load = await under_load(fresh, name, lambda: victim(fresh))
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for request in entries(name, COUNT):
        lengths[request.account].append(load.answers[request.entry.id].length)
    assert len(lengths) == ACCOUNTS
    for line in lengths.values():
        assert line == list(range(1, COUNT // ACCOUNTS + 1))


async def test_a_worker_is_killed(fresh: Mesh, language: str, name: str):
    await fresh.start_worker(language)
    await fresh.start_worker(language)

    async def kill() -> None:
        await fresh.workers[-1].kill()
        await fresh.start_worker(language)

    await under_load(fresh, name, kill)


async def test_the_submitter_is_killed(fresh: Mesh, language: str, name: str):
    await fresh.start_worker(language)
    command = [sys.executable, "-m", "tests.support.load", name, str(COUNT)]
    env = {"PYTHONPATH": str(ROOT)}
    first = await fresh.start("submitter", command, env)
    await first.kill()
    second = await fresh.start("submitter", command, env)
    assert await second.ended() == 0
    async with fresh.caller() as caller:
        load = Load(name, COUNT)
        await load.run(caller.plait)
        await all_done_once(caller, load)


@pytest.mark.parametrize("victim", ["worker", "broker", "scheduler"])
async def test_the_books_are_right(fresh: Mesh, tmp_path: Path, victim: str, name: str):
    """Every entry has its effect once, in the order of its account, whoever is killed."""
    database = tmp_path / "ledger.sqlite"
    command = [sys.executable, str(ROOT / "tests/support/ledger_worker.py"), str(database)]
    ledgers = [await fresh.start("ledger", command) for _ in range(2)]

    async def kill() -> None:
        if victim == "worker":
            await ledgers.pop(0).kill()
            ledgers.append(await fresh.start("ledger", command))
        else:
            await {"broker": broker, "scheduler": scheduler}[victim](fresh)

    await under_load(fresh, name, kill)
    effects, executions = books(database)
    assert effects == {
        f"{name}-{account}": list(range(1, COUNT // ACCOUNTS + 1)) for account in range(ACCOUNTS)
    }
    if victim != "worker":
        assert set(executions.values()) == {1}


def books(database: Path) -> tuple[dict[str, list[int]], Counter[str]]:
    """The numbers of the effects by account, in the order in which they were made; and how often
    each key was executed."""
    effects: defaultdict[str, list[int]] = defaultdict(list)
    with sqlite3.connect(database) as opened:
        for account, number in opened.execute("SELECT account, number FROM effects ORDER BY place"):
            effects[account].append(number)
        keys = [key for (key,) in opened.execute("SELECT key FROM executions")]
    opened.close()
    return dict(effects), Counter(keys)


def test_the_load_has_every_entry_once():
    requests = list(entries("x", COUNT))
    assert len({request.entry.id for request in requests}) == COUNT
    last = pb.AppendRequest(account="x-19", entry=pb.Entry(id="x-19/100", number=100))
    assert requests[-1] == last
