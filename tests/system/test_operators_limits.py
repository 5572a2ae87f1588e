"""An operator's limits: in force at once, whatever starts again and whoever announces what, shown
with their reason, and over when their time is.
"""

import asyncio
import json
import sys

from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Mesh
from tests.support.waiting import eventually

METHOD = "testing.v1.EchoService/Echo"
PATIENCE_S = 60.0


async def plait(mesh: Mesh, *arguments: str) -> str:
    """What the command line says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", *arguments, "--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


async def test_a_limit_of_an_operator_holds_until_it_is_cleared(fresh: Mesh):
    program = str(ROOT / "tests/support/outage_worker.py")
    command = [sys.executable, program, str(fresh.folder / "away")]
    await fresh.start("worker", command)
    # One may begin now, and the next one tomorrow.
    said = await plait(
        fresh, "limit", "set", METHOD, "--rate", "1/1d", "--for", "1h", "--reason", "incident 7"
    )
    assert said.startswith(f"{METHOD}: 1/d, set by ")
    async with fresh.caller() as caller:
        requests = (pb.EchoRequest(payload=b"%d" % number) for number in range(3))
        tasks = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
        ready = f'method = "/{METHOD}" AND state = READY'
        await eventually(lambda: caller.list(ready), lambda found: len(found) == 2, PATIENCE_S)
        (queue,) = {task.queue for task in await caller.list(ready)}

    # Both are killed, another one takes over, and the worker announces its contract anew.
    assert fresh.broker is not None
    assert fresh.scheduler is not None
    await fresh.scheduler.kill()
    await fresh.broker.kill()
    await fresh.start_broker()
    await fresh.start_scheduler()
    await fresh.start("another", command)
    for shown in (
        await plait(fresh, "queue", "get", queue),
        await plait(fresh, "contract", "show", "testing.v1.EchoService"),
    ):
        assert f"  {METHOD}: 1/d, set by " in shown
        assert '("incident 7"); its contract: no limits' in shown
    (listed,) = json.loads(await plait(fresh, "limit", "list", "-o", "json"))["methods"]
    assert listed["method"] == f"/{METHOD}"
    async with fresh.caller() as caller:
        assert len(await caller.list(ready)) == 2
        await plait(fresh, "limit", "clear", METHOD)
        done = f'method = "/{METHOD}" AND state = SUCCEEDED'
        await eventually(
            lambda: caller.list(done), lambda found: len(found) == len(tasks), PATIENCE_S
        )
        # One that ends by itself.
        await plait(fresh, "limit", "set", METHOD, "--concurrency", "1", "--for", "1s")
        listing = ("limit", "list", "-o", "json")
        await eventually(
            lambda: plait(fresh, *listing),
            lambda found: not json.loads(found)["methods"],
            PATIENCE_S,
        )
