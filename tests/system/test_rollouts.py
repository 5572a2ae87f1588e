"""Rollouts with real workers of two versions: exact shares, keys that stay, steps back and on,
and nothing lost whoever is killed.
"""

import asyncio
import collections
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.processes import Process
from tests.support.waiting import eventually

SERVICE = "testing.v1.EchoService"
SALT = f"{SERVICE}@2"
PATIENCE_S = 40.0
_MASK = (1 << 64) - 1


def place(key: bytes) -> int:
    """Where a key is among 10,000: as docs/rollouts.md says, and by nothing of Plait's."""
    mixed = 0xCBF29CE484222325
    for byte in SALT.encode() + key:
        mixed = (mixed ^ byte) * 0x100000001B3 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    mixed ^= mixed >> 31
    return (mixed >> 32) * 10_000 >> 32


def place_of(task: str) -> int:
    """Of a task without a key."""
    return place(int(task[1:], 16).to_bytes(8, "little"))


@pytest_asyncio.fixture(loop_scope="session")
async def versions(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh whose scheduler looks often."""
    env = {"PLAIT_SCHEDULER_FIGURES_INTERVAL_MS": "100"}
    async with Mesh(tmp_path, env=env) as running:
        yield running


async def worker(mesh: Mesh, version: str, *manner: str) -> Process:
    program = str(ROOT / "tests/support/rollout_worker.py")
    return await mesh.start(f"v{version}", [sys.executable, program, version, *manner])


async def rollout(mesh: Mesh, *arguments: str) -> dict[str, Any]:
    """`plait rollout`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "rollout", *arguments, "-o", "json"),
        *("--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    found: dict[str, Any] = json.loads(stdout)
    return found


async def inspect(caller: Caller, count: int) -> list[pb.InspectResponse]:
    """The answers of so many tasks."""
    calls = (caller.echo.Inspect(pb.InspectRequest(), timeout=PATIENCE_S) for _ in range(count))
    return await asyncio.gather(*calls)


def by_version(answers: list[pb.InspectResponse]) -> "collections.Counter[str]":
    return collections.Counter(each.metadata["version"] for each in answers)


def divided(answers: list[pb.InspectResponse], share: int) -> None:
    """Every single task ran on the version that the hash says."""
    for each in answers:
        wanted = "2" if place_of(each.task) < share else "1"
        assert each.metadata["version"] == wanted, each


async def two(mesh: Mesh) -> None:
    """A worker of each version."""
    await asyncio.gather(worker(mesh, "1"), worker(mesh, "2"))


async def test_shares_are_exact_and_outlive_scheduler_and_broker(versions: Mesh):
    await two(versions)
    async with versions.caller() as caller:
        await rollout(versions, "start", SERVICE, "--to", "2", "--percent", "10")
        answers = await inspect(caller, 1_000)
        divided(answers, 1_000)
        assert 60 < by_version(answers)["2"] < 140
        # Nobody decides, and the broker forgets all that is not in its log.
        assert versions.scheduler is not None
        assert versions.broker is not None
        await versions.scheduler.kill()
        await versions.broker.kill()
        await versions.start_broker()

        async def attached() -> int:
            return len(by_version(await inspect(caller, 60)))

        # The version's tasks are the other's until it is back.
        await eventually(attached, lambda found: found == 2)
        divided(await inspect(caller, 300), 1_000)
        await versions.start_scheduler()
        again = await rollout(versions, "set", SERVICE, "--percent", "50")
        assert [event["share"] for event in again["events"]] == [1_000, 5_000]
        divided(await inspect(caller, 300), 5_000)


async def test_what_is_over_keeps_out_the_version_that_lost(versions: Mesh):
    await two(versions)
    async with versions.caller() as caller:
        # Nothing is said yet.
        assert by_version(await inspect(caller, 100)).keys() == {"1", "2"}
        await rollout(versions, "start", SERVICE, "--to", "2")
        assert by_version(await inspect(caller, 100)) == {"1": 100}
        await rollout(versions, "promote", SERVICE)
        assert by_version(await inspect(caller, 100)) == {"2": 100}
        # A later version is not named anywhere, and works.
        third = await worker(versions, "3")
        assert by_version(await inspect(caller, 100)).keys() == {"2", "3"}
        await third.terminate()
        await rollout(versions, "abort", SERVICE, "--reason", "second thoughts")
        assert by_version(await inspect(caller, 100)) == {"1": 100}


async def test_a_key_stays_with_its_version_while_the_share_grows(versions: Mesh):
    await two(versions)
    accounts = [f"account-{number}" for number in range(100)]
    async with versions.caller() as caller:

        async def owners(turn: str) -> dict[str, int]:
            async def one(account: str) -> int:
                entry = pb.Entry(id=f"{turn}-{account}", number=1)
                request = pb.AppendRequest(account=account, entry=entry)
                return (await caller.echo.Append(request, timeout=PATIENCE_S)).length

            answers = await asyncio.gather(*map(one, accounts))
            return dict(zip(accounts, answers, strict=True))

        sticky = ("--percent", "10", "--sticky", "ordering-key")
        await owners("before")
        await rollout(versions, "start", SERVICE, "--to", "2", *sticky)
        for share in (30, 70):
            await rollout(versions, "set", SERVICE, "--percent", str(share))
            for turn in range(2):
                found = await owners(f"{share}-{turn}")
                wanted = {each: 2 if place(each.encode()) < share * 100 else 1 for each in accounts}
                assert found == wanted


async def watched(mesh: Mesh, caller: Caller) -> tuple[list[pb.InspectResponse], dict[str, Any]]:
    """Submits until the rollout is over. All answers, and how it ended."""
    answers: list[pb.InspectResponse] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await rollout(mesh, "get", SERVICE)
            if found["state"] != "ROLLOUT_STATE_RUNNING":
                return answers, found
            answers += await inspect(caller, 300)


async def test_a_version_that_fails_is_rolled_back_and_no_task_is_lost(versions: Mesh):
    await worker(versions, "1")
    await worker(versions, "2", "fails")
    async with versions.caller() as caller:
        await rollout(versions, "start", SERVICE, "--to", "2", "--from", "1", "--percent", "20")
        answers, found = await watched(versions, caller)
        assert found["state"] == "ROLLOUT_STATE_ROLLED_BACK"
        assert "attempts failed" in found["reason"]
        assert "share" not in found
        # All ended well, also those that the version failed at first.
        assert by_version(answers) == {"1": len(answers)}
        assert max(each.attempt for each in answers) > 1
        assert by_version(await inspect(caller, 50)) == {"1": 50}


async def test_a_version_that_is_slow_is_rolled_back(versions: Mesh):
    await worker(versions, "1")
    await worker(versions, "2", "slow")
    async with versions.caller() as caller:
        await rollout(versions, "start", SERVICE, "--to", "2", "--percent", "30")
        answers, found = await watched(versions, caller)
        assert found["state"] == "ROLLOUT_STATE_ROLLED_BACK"
        assert "attempts took over" in found["reason"]
        assert by_version(answers)["2"] > 0


async def test_steps_lead_to_everything_and_workers_that_go_strand_nothing(versions: Mesh):
    await worker(versions, "1")
    second = await worker(versions, "2")
    steps = ("--steps", "20:100ms,100:100ms", "--min-samples", "10")
    async with versions.caller() as caller:
        await rollout(versions, "start", SERVICE, "--to", "2", *steps)
        _, found = await watched(versions, caller)
        assert (found["state"], found["reason"]) == (
            "ROLLOUT_STATE_PROMOTED",
            "all steps are done",
        )
        await rollout(versions, "set", SERVICE, "--percent", "50")
        await second.kill()
        assert by_version(await inspect(caller, 100)) == {"1": 100}
