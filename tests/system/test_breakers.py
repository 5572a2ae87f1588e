"""Breakers of tasks: while a downstream is away its tasks rest, burn no attempts, and go on by
themselves.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.waiting import eventually

ECHO = "/testing.v1.EchoService/Echo"
TASKS = 300
# Of the contract.
ATTEMPTS_MAX = 20
PATIENCE_S = 60.0


async def breakers(mesh: Mesh) -> dict[str, Any]:
    """What `plait breaker list` says, by method."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "breaker", "list", "--all", "-o", "json"),
        *("--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return {each["method"]: each for each in json.loads(stdout)["breakers"]}


async def state(mesh: Mesh) -> str:
    """Of Echo's breaker."""
    found = (await breakers(mesh)).get(ECHO, {"state": "none"})
    return str(found["state"]).removeprefix("BREAKER_STATE_")


def openings(found: dict[str, Any]) -> int:
    """How often Echo's breaker has opened in a row."""
    return int(found.get(ECHO, {}).get("openings", 0))


async def attempts(caller: Caller) -> int:
    """Attempts of Echo's tasks so far."""
    return sum(task.attempt for task in await caller.list(f'method = "{ECHO}"'))


async def worker(mesh: Mesh, outage: Path) -> None:
    program = str(ROOT / "tests/support/outage_worker.py")
    await mesh.start("outage", [sys.executable, program, str(outage)])


async def test_tasks_rest_while_their_downstream_is_away(fresh: Mesh):
    outage = fresh.folder / "away"
    outage.touch()
    await worker(fresh, outage)
    async with fresh.caller() as caller:
        requests = (pb.EchoRequest(payload=b"%d" % number) for number in range(TASKS))
        tasks = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
        await eventually(lambda: state(fresh), lambda found: found == "OPEN", PATIENCE_S)
        parked = f'method = "{ECHO}" AND state = PARKED'
        # Those between attempts come to rest as their pauses end.
        await eventually(lambda: caller.list(parked), lambda found: len(found) == TASKS, PATIENCE_S)
        burnt = await attempts(caller)
        # Other methods of the same worker go on meanwhile.
        began = time.monotonic()
        answers = await asyncio.gather(
            *(caller.echo.Inspect(pb.InspectRequest(), timeout=20) for _ in range(50))
        )
        assert [each.attempt for each in answers] == [1] * 50
        took = time.monotonic() - began
        # Probes go, and fail, and it rests for longer.
        await eventually(lambda: breakers(fresh), lambda found: openings(found) >= 2, PATIENCE_S)
        assert await attempts(caller) - burnt <= 2 * 3
        assert took < PATIENCE_S
        outage.unlink()
        results = await asyncio.gather(*(task.result() for task in tasks))
        assert [each.payload for each in results] == [b"%d" % number for number in range(TASKS)]
        await eventually(lambda: state(fresh), lambda found: found == "CLOSED", PATIENCE_S)
        most = max(task.attempt for task in await caller.list(f'method = "{ECHO}"'))
        assert most < ATTEMPTS_MAX


async def test_a_scheduler_that_dies_parks_nothing_for_good(fresh: Mesh):
    outage = fresh.folder / "away"
    outage.touch()
    await worker(fresh, outage)
    async with fresh.caller() as caller:
        requests = (pb.EchoRequest(payload=b"x") for _ in range(50))
        tasks = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
        await eventually(lambda: state(fresh), lambda found: found == "OPEN", PATIENCE_S)
        assert fresh.scheduler is not None
        await fresh.scheduler.kill()
        outage.unlink()
        # The gate is over some seconds after the time that it was set for.
        await asyncio.gather(*(task.result() for task in tasks))


async def test_a_broker_that_comes_again_is_told_who_rests(fresh: Mesh):
    outage = fresh.folder / "away"
    outage.touch()
    await worker(fresh, outage)
    async with fresh.caller() as caller:
        requests = (pb.EchoRequest(payload=b"x") for _ in range(50))
        tasks = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
        await eventually(lambda: breakers(fresh), lambda found: openings(found) >= 2, PATIENCE_S)
        assert fresh.broker is not None
        await fresh.broker.kill()
        await fresh.start_broker()
        outage.unlink()
        await asyncio.gather(*(task.result() for task in tasks))
        assert max(task.attempt for task in await caller.list(f'method = "{ECHO}"')) < ATTEMPTS_MAX
