"""Rollouts of workers that know another version of the contract: whatever the share, a task goes to
who can decode it, and waits for one.
"""

import asyncio

from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Mesh
from tests.support.waiting import eventually
from tests.system.test_rollouts import rollout
from tests.system.test_versions import (
    BROKEN,
    LATER,
    NOTED,
    SERVICE,
    SOURCE,
    TIMEOUT_S,
    ran,
    version,
    waiting,
)

COUNT = 5
# Field 1 as BROKEN has it.
NUMBER = b"\x09\x01\x02\x03\x04\x05\x06\x07\x08"


async def test_tasks_stay_with_an_older_version_that_has_nothing_else_left(fresh: Mesh):
    older, broken = await version(fresh, SOURCE), await version(fresh, BROKEN)
    first = await older.worker("1")
    async with fresh.caller() as caller:
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo", reason="a rollout"))
        request = pb.EchoRequest(payload=b"older")
        tasks = [await caller.plait.submit(caller.echo.Echo, request) for _ in range(COUNT)]
        await broken.push("--allow", "the numbers are wanted")
        second = await broken.worker("2")
        await rollout(fresh, "start", SERVICE, "--to", "2", "--from", "1", "--percent", "100")
        await first.terminate()
        await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name="echo"))
        # The new version is there, has everything and works; what it cannot read waits.
        assert await broken.call("Echo", NUMBER, COUNT) == [NUMBER] * COUNT
        assert await waiting(caller, "Echo") == COUNT
        again = await older.worker("1")
        async with asyncio.timeout(TIMEOUT_S):
            answers = await asyncio.gather(*(task.result() for task in tasks))
        assert [each.payload for each in answers] == [b"older"] * COUNT
        found = [await caller.get(task.id) for task in tasks]
        assert await ran(caller, *found) == {again.ready["worker"]}
        # And it has got nothing else.
        assert await broken.call("Echo", NUMBER, COUNT) == [NUMBER] * COUNT
        everything = await caller.list(f'method = "/{SERVICE}/Echo"')
        others = [each for each in everything if each.id not in {task.id for task in tasks}]
        assert await ran(caller, *others) == {second.ready["worker"]}


async def test_tasks_go_to_a_newer_version_without_a_share_that_alone_can_read_them(fresh: Mesh):
    older, later = await version(fresh, SOURCE), await version(fresh, LATER)
    first, second = await older.worker("1"), await later.worker("2")
    await rollout(fresh, "start", SERVICE, "--to", "2", "--from", "1")
    plain = pb.EchoRequest(payload=b"plain").SerializeToString()
    async with fresh.caller() as caller:
        held = asyncio.create_task(later.call("Echo", NOTED, COUNT))
        await eventually(lambda: waiting(caller, "Echo"), lambda count: count == COUNT)
        noted = await caller.list(f'method = "/{SERVICE}/Echo"')
        # All others are the old version's, before and after.
        assert await older.call("Echo", plain, COUNT) == [plain] * COUNT
        assert await held == [NOTED] * COUNT
        assert await older.call("Echo", plain, COUNT) == [plain] * COUNT
        assert await ran(caller, *noted) == {second.ready["worker"]}
        everything = await caller.list(f'method = "/{SERVICE}/Echo"')
        others = [each for each in everything if each.id not in {task.id for task in noted}]
        assert len(others) == 2 * COUNT
        assert await ran(caller, *others) == {first.ready["worker"]}
