"""Direct calls: unmodified gRPC clients and the SDK find live workers, and lose no call."""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

import plait
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.ads import CLUSTERS, ads
from tests.support.mesh import ROOT, Mesh, binaries
from tests.support.processes import Process
from tests.support.waiting import eventually
from tests.system.direct import (
    ECHO,
    WAIT_S,
    address_of,
    answered_by,
    bootstrap,
    channel,
    direct,
    direct_calls,
    names,
    worker,
)

PLAIN = Path(__file__).with_name("plain_caller.py")
# Callers of the rolling restart, and how often each worker is restarted.
CALLERS = 8
# Of those that listen, and that call directly.
LANGUAGES = ("python", "go")
ROUNDS = 2


async def start_echo(mesh: Mesh, language: str = "python") -> Process:
    """A worker process that listens."""
    command = [str(binaries() / f"echo-worker-{language}")]
    if language == "python":
        command = [sys.executable, str(ROOT / "interop/drivers/python/echo_worker.py")]
    return await mesh.start(language, [*command, "--listen", "127.0.0.1:0"])


async def plain_call(mesh: Mesh, language: str, calls: int, *arguments: str) -> dict[str, int]:
    """Who answered an unmodified client how often."""
    command = [str(binaries() / "caller-go"), "-calls", str(calls), *arguments]
    if language == "python":
        command = [sys.executable, str(PLAIN), f"xds:///{ECHO}", str(calls)]
    env = {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(address_of(mesh))}
    answers: dict[str, int] = (await mesh.start("plain-caller", command, env)).ready["answers"]
    return answers


@pytest.mark.parametrize("client", LANGUAGES)
@pytest.mark.parametrize("server", LANGUAGES)
async def test_an_unmodified_client_finds_a_worker(fresh: Mesh, client: str, server: str):
    await start_echo(fresh, server)
    payload = {"python": "plain", "go": "payload"}[client]
    assert await plain_call(fresh, client, 50) == {payload: 50}
    assert (await direct_calls(fresh)).rejected == 0


async def test_a_service_nobody_serves_fails_fast(fresh: Mesh):
    async with channel(fresh) as opened:
        # The scheduler says nothing before it has heard of every worker; this waits for it.
        await refused(opened)
        async with channel(fresh, "nobody.v1.NobodyService") as another:
            began = time.monotonic()
            await refused(another)
    # Without an answer clients wait for 15 s.
    assert time.monotonic() - began < 5


async def refused(opened: grpc.aio.Channel) -> None:
    stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_workers_come_and_go_under_an_open_channel(fresh: Mesh):
    async with channel(fresh) as opened:
        stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
        async with worker(fresh, "a"):
            await answered_by(stub, "a")
            async with worker(fresh, "b"):
                await answered_by(stub, "a", "b")
            # It drained, so nobody is sent there any more.
            assert set(await names(stub)) == {"a"}
        await refused(opened)


async def test_versions_share_the_calls_by_their_workers(fresh: Mesh):
    async with (
        channel(fresh) as opened,
        worker(fresh, "old", "1"),
        worker(fresh, "new", "2"),
        worker(fresh, "new, too", "2"),
    ):
        stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(stub, "old", "new", "new, too")
        found = await names(stub, 300)
        # A third of 300 each; 60 is 4.9 standard deviations away.
        assert min(found.values()) > 60, found


async def test_a_killed_worker_costs_no_call_of_those_that_come_later(fresh: Mesh):
    dying = await start_echo(fresh)
    async with fresh.caller() as caller, worker(fresh, "stays"):
        await answered_by(direct(caller), "", "stays")
        await dying.kill()
        assert await names(direct(caller), 50) == {"stays": 50}


async def test_a_version_whose_last_worker_was_killed_gets_no_call(fresh: Mesh):
    dying = await start_echo(fresh)
    async with fresh.caller() as caller, worker(fresh, "stays", "2"):
        await answered_by(direct(caller), "", "stays")
        await dying.kill()
        await answered_by(direct(caller), "stays")


async def test_open_channels_go_on_without_scheduler_and_broker(fresh: Mesh):
    assert fresh.scheduler is not None
    assert fresh.broker is not None
    address = fresh.scheduler.address
    async with fresh.caller() as caller, worker(fresh, "a"), channel(fresh) as opened:
        plain: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(plain, "a")
        await answered_by(direct(caller), "a")
        await fresh.scheduler.kill()
        assert await names(plain, 200) == {"a": 200}
        await fresh.broker.kill()
        assert await names(plain, 200) == {"a": 200}
        assert await names(direct(caller), 200) == {"a": 200}
        await fresh.start_broker()
        await fresh.start_scheduler("--listen", address)
        async with worker(fresh, "b"):
            await answered_by(plain, "a", "b")
            await answered_by(direct(caller), "a", "b")


async def test_a_restart_of_the_broker_withdraws_nobody(fresh: Mesh):
    assert fresh.broker is not None
    async with worker(fresh, "a"), channel(fresh) as opened:
        stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(stub, "a")
        async with steady(stub) as failures:
            await fresh.broker.terminate()
            await fresh.start_broker()
            async with worker(fresh, "b"):
                await answered_by(stub, "a", "b")
        assert failures == []


async def test_the_sdk_follows_the_scheduler_that_takes_over(fresh: Mesh):
    async with fresh.caller() as caller, worker(fresh, "a"):
        await answered_by(direct(caller), "a")
        assert fresh.scheduler is not None
        await fresh.scheduler.kill()
        await fresh.start_scheduler()
        async with worker(fresh, "b"):
            await answered_by(direct(caller), "a", "b")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_no_call_fails_in_a_rolling_restart(fresh: Mesh, language: str):
    running = [await start_echo(fresh, language), await start_echo(fresh, language)]
    from_go = [await steady_go(fresh), await steady_go(fresh, "-direct")]
    async with fresh.caller() as caller, channel(fresh) as opened:
        plain: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(plain, "")
        async with steady(plain) as lost_plain, steady(direct(caller)) as lost_direct:
            for _ in range(ROUNDS):
                for index, old in enumerate(running):
                    # As a rollout does: the new one is there before the old one goes.
                    running[index] = await start_echo(fresh, language)
                    assert await old.terminate() == 0
    assert lost_plain == []
    assert lost_direct == []
    for each in from_go:
        assert await each.terminate() == 0
        (done,) = [line for line in each.tail().splitlines() if '"done"' in line]
        assert json.loads(done)["answers"].keys() == {"payload"}


async def steady_go(mesh: Mesh, *arguments: str) -> Process:
    """A program in Go that calls without a pause until it is told to end."""
    env = {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(address_of(mesh))}
    return await mesh.start("caller-go", [str(binaries() / "caller-go"), *arguments], env)


async def test_a_client_without_a_deadline_gets_the_policy_s(fresh: Mesh):
    async with worker(fresh, "a") as named:
        assert await plain_call(fresh, "go", 1, "-method", "Sleep") == {"": 1}
        assert 0 < named.left[0] < 5.1


async def test_every_call_has_a_deadline(fresh: Mesh):
    async with fresh.caller() as caller, worker(fresh, "a") as named:
        stub = direct(caller)
        await answered_by(stub, "a")
        # The policy's, where the caller names none: 5 s for Sleep.
        await stub.Sleep(echo_pb2.SleepRequest())
        sleep, inner = named.left
        assert 4 < sleep < 5.1
        # A call that a handler makes has what is left to it, not the 30 s that Once allows. C-core
        # counts from a clock that is some milliseconds behind.
        assert sleep - 1 < inner < sleep + 0.1
        await stub.Sleep(echo_pb2.SleepRequest(), timeout=2)
        assert 1 < named.left[2] < 2.1
        with plait.deadline.limit(3):
            await stub.Sleep(echo_pb2.SleepRequest(), timeout=4)
        assert 2 < named.left[4] < 3.1
        # C-core alone would end it 1 to 2 s early, and the handler would not know its deadline.
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Sleep(echo_pb2.SleepRequest(duration=Duration(seconds=30)), timeout=2.5)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 2.3 < time.monotonic() - began < 10


async def test_the_client_library_retries_as_the_contract_says(fresh: Mesh):
    async with fresh.caller() as caller, worker(fresh, "a") as named:
        stub = direct(caller)

        async def fail(message: str, code: int, failures: int) -> int:
            request = echo_pb2.FailRequest(message=message, code=code, failures=failures)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.Fail(request, timeout=WAIT_S)
            return named.calls[message]

        assert await fail("passes", 14, 2) == 3
        # One layer of three attempts, not of nine.
        assert await fail("stays", 14, 100) == 3
        # Fail has no idempotency key, and INVALID_ARGUMENT is nobody's to repeat.
        assert await fail("internal", 13, 1) == 1
        assert await fail("invalid", 3, 1) == 1


async def test_clients_report_what_became_of_their_calls(fresh: Mesh):
    async with worker(fresh, "a", "7"), channel(fresh) as opened:
        stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
        assert await names(stub, 30) == {"a": 30}
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Fail(echo_pb2.FailRequest(code=3, failures=1), timeout=WAIT_S)

        def counted(found: Any) -> bool:
            sums = [(each.succeeded, each.failed) for each in found.loads if each.locality]
            return sums == [(30, 1)]

        found = await eventually(lambda: direct_calls(fresh), counted, WAIT_S)
    assert found.clients == 1
    assert found.loads[0].cluster.startswith(f"{ECHO}@7~")
    assert found.loads[0].locality == "plait/mesh"


async def test_a_call_carries_the_trace_and_the_caller_s_metadata(fresh: Mesh):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with fresh.caller() as caller, worker(fresh, "a") as named:
        stub = direct(caller)
        with plait.options(metadata=[("x-tenant", "t1")]):
            await stub.Echo(
                echo_pb2.EchoRequest(), metadata=[("traceparent", trace)], timeout=WAIT_S
            )
    assert named.seen[0]["traceparent"] == trace
    assert named.seen[0]["x-tenant"] == "t1"


async def test_a_configuration_that_a_client_rejects_is_an_alarm(fresh: Mesh):
    async with worker(fresh, "a"), channel(fresh) as opened:
        stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(stub, "a")
        async with ads(address_of(fresh)) as rejecting:
            await rejecting.say(CLUSTERS, [f"{ECHO}@~"])
            answer = await rejecting.hear(CLUSTERS)
            await rejecting.say(CLUSTERS, [f"{ECHO}@~"], answer, error="not for me")
            found = await eventually(lambda: direct_calls(fresh), lambda each: each.rejected)
        assert found.rejections[0].error == "not for me"
        # Nobody else minds.
        assert await names(stub) == {"a": 20}


@contextlib.asynccontextmanager
async def steady(stub: Any) -> Any:
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
