"""Breakers of workers: one whose attempts fail while its peers' do not is closed off, its share
goes to them, and it comes back when it is well.
"""

import asyncio
import json
import sys
from typing import Any

from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.waiting import eventually

ECHO = "/testing.v1.EchoService/Echo"
# Small, so that few attempts are in a worker when its breaker opens.
CONCURRENCY = 4
WAVE = 20
PATIENCE_S = 60.0


async def workers(mesh: Mesh) -> dict[str, Any]:
    """What `plait worker list` says, by id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "worker", "list", "-o", "json"),
        *("--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return {each["worker"]: each for each in json.loads(stdout)["workers"]}


async def wave(caller: Caller) -> None:
    """Some tasks, all of which are done."""
    requests = [pb.EchoRequest(payload=b"%d" % number) for number in range(WAVE)]
    answers = await asyncio.gather(*(caller.echo.Echo(each, timeout=60) for each in requests))
    assert [each.payload for each in answers] == [each.payload for each in requests]


async def failed(caller: Caller) -> int:
    """Attempts that failed so far."""
    return sum(task.attempt - 1 for task in await caller.list(f'method = "{ECHO}"'))


async def test_a_bad_host_is_closed_off_and_comes_back(fresh: Mesh):
    program = str(ROOT / "tests/support/outage_worker.py")
    outages = [fresh.folder / f"away-{number}" for number in range(3)]
    ids = []
    for outage in outages:
        command = [sys.executable, program, str(outage), str(CONCURRENCY)]
        ids.append((await fresh.start("outage", command)).ready["worker"])
    bad = ids[0]
    outages[0].touch()

    async def state(caller: Caller) -> str:
        await wave(caller)
        found = await workers(fresh)
        assert {found[each]["breaker"] for each in ids[1:]} == {"BREAKER_STATE_CLOSED"}
        return str(found[bad]["breaker"]).removeprefix("BREAKER_STATE_")

    async with fresh.caller() as caller:
        await eventually(lambda: state(caller), lambda found: found == "OPEN", PATIENCE_S)
        before = await failed(caller)
        for _ in range(5):
            await wave(caller)
        # What it held when it was closed off, and at most two rounds of probes: not its share.
        assert await failed(caller) - before <= 2 * CONCURRENCY + 2 * 3
        outages[0].unlink()
        done = int((await workers(fresh))[bad].get("succeeded", 0))
        await eventually(lambda: state(caller), lambda found: found == "CLOSED", PATIENCE_S)
        for _ in range(5):
            await wave(caller)
        await eventually(
            lambda: workers(fresh),
            lambda found: int(found[bad]["succeeded"]) > done + 3,
            PATIENCE_S,
        )
