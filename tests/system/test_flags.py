"""Feature flags: a change reaches attached workers of every language before the next task does, a
flow keeps what it has read, and nothing of it waits for a scheduler."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest_asyncio

import plait
from plait.v1 import flag_service_pb2 as pb
from plait.v1 import flag_service_pb2_grpc as rpc
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.waiting import eventually

FAIL = "/testing.v1.EchoService/Fail"
VECTORS = json.loads((ROOT / "interop/vectors/flags.json").read_text())["positions"]


class Flags:
    """What an operator does."""

    def __init__(self, channel) -> None:
        self._stub = rpc.FlagServiceStub(channel)

    async def set(self, name: str, share: int, *keys_on: str) -> None:
        """Sets a flag as a whole."""
        rule = pb.FlagRule(name=name, share=share, keys_on=keys_on)
        await self._stub.SetFlag(pb.SetFlagRequest(flag=pb.Flag(rule=rule)))

    async def delete(self, name: str) -> None:
        """Removes it."""
        await self._stub.DeleteFlag(pb.DeleteFlagRequest(name=name))


@pytest_asyncio.fixture(loop_scope="session")
async def flags(mesh: Mesh) -> AsyncIterator[Flags]:
    """Of the shared mesh."""
    async with plait._wire.open_channel(mesh.address) as channel:
        yield Flags(channel)


def legal(name: str) -> str:
    """A flag's name of a test's."""
    return "".join(each if each.isalnum() else "-" for each in name.lower())[:64]


async def is_on(caller: Caller, flag: str, key: str | None = None) -> bool:
    """What a handler reads."""
    return (await caller.echo.Inspect(echo_pb2.InspectRequest(flag=flag, flag_key=key))).flag_on


async def test_the_task_after_a_change_sees_it(caller: Caller, flags: Flags, name: str):
    flag = legal(name)
    assert not await is_on(caller, flag)
    for _ in range(20):
        await flags.set(flag, 10_000)
        assert await is_on(caller, flag)
        await flags.set(flag, 0)
        assert not await is_on(caller, flag)
    await flags.set(flag, 10_000)
    await flags.delete(flag)
    assert not await is_on(caller, flag)


async def test_a_share_is_of_the_same_keys_in_every_language(
    caller: Caller, flags: Flags, name: str
):
    for vector in VECTORS[:12]:
        await flags.set(vector["name"], vector["position"] + 1)
        assert await is_on(caller, vector["name"], vector["key"])
        await flags.set(vector["name"], vector["position"])
        assert not await is_on(caller, vector["name"], vector["key"])
        await flags.delete(vector["name"])


async def test_a_task_is_asked_about_by_its_own_key(caller: Caller, flags: Flags, name: str):
    flag = legal(name)
    await flags.set(flag, 0, f"{name}/key", f"{name}/line")
    assert not await is_on(caller, flag)
    with plait.options(key=f"{name}/key"):
        assert await is_on(caller, flag)
    with plait.options(key=f"{name}/other", ordering_key=f"{name}/line"):
        assert await is_on(caller, flag)


async def test_a_flow_that_is_run_again_reads_what_it_had_read(
    fresh: Mesh, language: str, name: str
):
    first = await fresh.start_worker(language)
    async with fresh.caller() as caller, plait._wire.open_channel(fresh.address) as channel:
        flags = Flags(channel)
        await flags.set("in-a-row", 10_000)
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo.fail"))
        request = echo_pb2.FlowRequest(depth=2, seed=name, flag="in-a-row")
        flow = await caller.plait.submit(caller.echo.Flow, request)

        async def children() -> list[task_pb2.Task]:
            return await caller.list(f'parent = "{flow.id}" AND method = "{FAIL}"')

        await eventually(children, lambda found: len(found) == 1)
        # Whoever reads it anew asks for another child, and has diverged.
        await flags.set("in-a-row", 0)
        await first.kill()
        await fresh.start_worker(language)
        await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name="echo.fail"))
        async with asyncio.timeout(30):
            answer = await flow.result()
        assert answer.child_attempts == 4
        assert len(await children()) == 2


async def test_flags_hold_over_a_restart_and_without_a_scheduler(fresh: Mesh):
    await fresh.start_worker("python")
    async with fresh.caller() as caller, plait._wire.open_channel(fresh.address) as channel:
        flags = Flags(channel)
        await flags.set("kept", 10_000)
        await flags.set("gone", 10_000)
        assert await is_on(caller, "gone")
        assert fresh.scheduler is not None
        assert fresh.broker is not None
        await fresh.scheduler.kill()
        await flags.delete("gone")
        await fresh.broker.kill()
        await fresh.start_broker()
        assert await is_on(caller, "kept")
        assert not await is_on(caller, "gone")
        await flags.set("kept", 0)
        assert not await is_on(caller, "kept")
