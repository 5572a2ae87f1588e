"""Direct calls between all languages. Rust and TypeScript find workers by a client of the control
plane of their own, where Python and Go have gRPC's."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import ROOT, WORKER_LANGUAGES, Caller, Mesh, binaries
from tests.support.processes import Process
from tests.support.waiting import eventually
from tests.system.direct import WAIT_S, answered_by, channel, direct_calls, names, worker

# Whose clients of the control plane are ours.
OURS = ("rust", "typescript")
CALLS = 20
ALL_WELL = {"payload": CALLS}
# How often each worker of a rolling restart is restarted.
ROUNDS = 2
CALLERS = 8


def direct(caller: Caller) -> Any:
    """The stub for direct calls."""
    return echo_pb2_grpc.EchoServiceStub(caller.plait.direct())


async def start_echo(mesh: Mesh, language: str) -> Process:
    """A worker process that listens."""
    command = [str(binaries() / f"echo-worker-{language}")]
    if language == "python":
        command = [sys.executable, str(ROOT / "interop/drivers/python/echo_worker.py")]
    return await mesh.start(language, [*command, "--listen", "127.0.0.1:0"])


async def start_caller(mesh: Mesh, language: str, calls: int = 0) -> Process:
    """A program that calls directly by the SDK, without a pause until it is told to end."""
    command = [str(binaries() / "caller-go"), "-direct", "-calls", str(calls)]
    if language in OURS:
        program = str(binaries() / f"echo-worker-{language}")
        command = [program, "--caller", "--calls", str(calls)]
    return await mesh.start(f"caller-{language}", command)


async def answers(mesh: Mesh, language: str) -> dict[str, int]:
    """What a language's client is answered, and how often."""
    if language != "python":
        found: dict[str, int] = (await start_caller(mesh, language, CALLS)).ready["answers"]
        return found
    async with mesh.caller() as caller:
        stub = direct(caller)
        request = echo_pb2.EchoRequest(payload=b"payload")
        calls = [await stub.Echo(request, timeout=WAIT_S) for _ in range(CALLS)]
        return {"payload": sum(each.payload == b"payload" for each in calls)}


async def done(caller: Process) -> dict[str, int]:
    """Ends a program that calls; what it was answered."""
    assert await caller.terminate() == 0
    (line,) = [each for each in caller.tail().splitlines() if '"done"' in each]
    found: dict[str, int] = json.loads(line)["answers"]
    return found


@pytest.mark.parametrize("server", WORKER_LANGUAGES)
async def test_every_language_calls_every_language(fresh: Mesh, server: str):
    await start_echo(fresh, server)
    for client in WORKER_LANGUAGES:
        assert await answers(fresh, client) == ALL_WELL, f"{client} calls {server}"
    assert (await direct_calls(fresh)).rejected == 0


@pytest.mark.parametrize("client", OURS)
async def test_a_service_nobody_serves_fails_fast(fresh: Mesh, client: str):
    found = (await start_caller(fresh, client, 3)).ready["answers"]
    assert sum(found.values()) == 3
    for text in found:
        assert text.startswith("Unavailable: nobody serves /testing.v1.EchoService/Echo"), text


@pytest.mark.parametrize("client", OURS)
async def test_calls_go_on_without_scheduler_and_broker(fresh: Mesh, client: str):
    assert fresh.scheduler is not None
    assert fresh.broker is not None
    address = fresh.scheduler.address
    async with worker(fresh, "a") as first:
        caller = await start_caller(fresh, client)
        await fresh.scheduler.kill()
        await answered_more(first)
        await fresh.broker.kill()
        await answered_more(first)
        await fresh.start_broker()
        await fresh.start_scheduler("--listen", address)
        async with worker(fresh, "b") as second:
            await answered_more(second)
        assert set(await done(caller)) == {"a", "b"}


async def answered_more(named: Any) -> None:
    """Waits until a worker has answered some more calls."""
    before = len(named.seen)

    async def count() -> int:
        return len(named.seen) - before

    await eventually(count, lambda more: more >= 100, WAIT_S)


@pytest.mark.parametrize("client", OURS)
async def test_another_scheduler_that_takes_over_is_followed(fresh: Mesh, client: str):
    async with worker(fresh, "a") as first:
        caller = await start_caller(fresh, client)
        await fresh.start_scheduler()
        async with worker(fresh, "b") as second:
            await answered_more(second)
        await answered_more(first)
        assert set(await done(caller)) == {"a", "b"}


@pytest.mark.parametrize("client", OURS)
async def test_versions_share_the_calls_by_their_workers(fresh: Mesh, client: str):
    async with (
        worker(fresh, "old", "1"),
        worker(fresh, "new", "2"),
        worker(fresh, "new, too", "2"),
        channel(fresh) as opened,
    ):
        await answered_by(echo_pb2_grpc.EchoServiceStub(opened), "old", "new", "new, too")
        found = (await start_caller(fresh, client, 300)).ready["answers"]
        # A third of 300 each; 60 is 4.9 standard deviations away.
        assert set(found) == {"old", "new", "new, too"}
        assert min(found.values()) > 60, found


@pytest.mark.parametrize("server", OURS)
async def test_no_call_fails_in_a_rolling_restart(fresh: Mesh, server: str):
    running = [await start_echo(fresh, server), await start_echo(fresh, server)]
    callers = [await start_caller(fresh, client) for client in ("go", *OURS)]
    async with fresh.caller() as caller, channel(fresh) as opened:
        plain: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await names(plain)
        async with steady(plain) as lost_plain, steady(direct(caller)) as lost_direct:
            for _ in range(ROUNDS):
                for index, old in enumerate(running):
                    # As a rollout does: the new one is there before the old one goes.
                    running[index] = await start_echo(fresh, server)
                    assert await old.terminate() == 0
    assert lost_plain == []
    assert lost_direct == []
    for each in callers:
        assert set(await done(each)) == {"payload"}, each.name


@contextlib.asynccontextmanager
async def steady(stub: Any) -> AsyncIterator[list[str]]:
    """Calls without a pause, until the block ends; yields what failed."""
    failures: list[str] = []
    over = asyncio.Event()

    async def call() -> None:
        while not over.is_set():
            try:
                await stub.Echo(echo_pb2.EchoRequest(payload=b"x"), timeout=WAIT_S)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())
        try:
            yield failures
        finally:
            over.set()
