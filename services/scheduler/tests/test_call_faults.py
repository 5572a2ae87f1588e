"""Faults of direct calls: what may be set, what each kind of client is told, and how they end."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import code_pb2

from plait import errors
from plait.control.v1 import fault_service_pb2 as pb
from plait.control.v1 import fault_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.key_value import KeyValue
from plait_scheduler.domain.call_fault import Abort, CallFault, Delay, check
from plait_scheduler.xds.faults import FAULTS_MAX, PREFIX, Faults, TooManyFaultsError
from plait_xds import fault_pb2, listener_pb2, route_pb2
from plait_xds import http_connection_manager_pb2 as hcm_pb2
from services.scheduler.tests.contracts import SERVICE
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler
from tests.support.ads import C_CORE, GO, LISTENERS, ROUTES, Ads, ads, unpack

METHOD = f"/{SERVICE}/Place"
FAULT = CallFault(METHOD, Abort(14, 100_000), Delay(200, 500_000), 1_000, 601_000, "me@here")


@pytest.fixture
async def stub(
    broker: FakeBroker, scheduler: RunningScheduler
) -> AsyncIterator["pb_grpc.FaultServiceAsyncStub"]:
    broker.figures()
    async with grpc.aio.insecure_channel(await scheduler.ready) as channel:
        yield pb_grpc.FaultServiceStub(channel)


def wanted(seconds: int = 600) -> pb.SetFaultRequest:
    request = pb.SetFaultRequest(method=METHOD, set_by="me@here")
    request.abort.code = code_pb2.UNAVAILABLE
    request.abort.per_million = 100_000
    request.delay.delay.FromMilliseconds(200)
    request.delay.per_million = 500_000
    request.duration.FromSeconds(seconds)
    return request


def test_a_fault_that_can_be():
    assert check(FAULT) == []
    assert check(replace(FAULT, abort=None)) == []


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("method", replace(FAULT, method="Place")),
        ("method", replace(FAULT, method="/s.S/A/B")),
        ("abort", replace(FAULT, abort=None, delay=None)),
        ("abort.code", replace(FAULT, abort=Abort(0, 1))),
        ("abort.code", replace(FAULT, abort=Abort(17, 1))),
        ("abort.per_million", replace(FAULT, abort=Abort(14, 0))),
        ("abort.per_million", replace(FAULT, abort=Abort(14, 1_000_001))),
        ("delay.delay", replace(FAULT, delay=Delay(0, 1))),
        ("delay.delay", replace(FAULT, delay=Delay(300_001, 1))),
        ("delay.per_million", replace(FAULT, delay=Delay(1, 0))),
        # Never without an end.
        ("duration", replace(FAULT, end_ms=FAULT.set_ms)),
        ("duration", replace(FAULT, end_ms=FAULT.set_ms + 24 * 3_600_000 + 1)),
        ("set_by", replace(FAULT, set_by="x" * 201)),
    ],
)
def test_a_fault_that_cannot_be(field: str, fault: CallFault):
    assert [name for name, _ in check(fault)] == [field]


async def told(client: Ads) -> tuple[hcm_pb2.HttpConnectionManager, route_pb2.Route]:
    """What a fresh client is told of the method, once somebody serves it."""
    while True:
        await client.say(LISTENERS, [SERVICE])
        (listener,) = unpack(await client.hear(LISTENERS), listener_pb2.Listener)
        manager = hcm_pb2.HttpConnectionManager()
        assert listener.api_listener.api_listener.Unpack(manager)
        if manager.HasField("rds"):
            break
    (found,) = unpack(await client.ask(ROUTES, SERVICE), route_pb2.RouteConfiguration)
    return manager, found.virtual_hosts[0].routes[0]


async def until_faulty(client: Ads, *, faulty: bool) -> route_pb2.Route:
    """The route as it is told when it has come to that."""
    while True:
        answer = await client.hear()
        await client.say(answer.type_url, [SERVICE], answer)
        if answer.type_url == ROUTES:
            (found,) = unpack(answer, route_pb2.RouteConfiguration)
            route = found.virtual_hosts[0].routes[0]
            if bool(route.typed_per_filter_config) is faulty:
                return route


def names(manager: hcm_pb2.HttpConnectionManager) -> list[str]:
    return [each.name for each in manager.http_filters]


@pytest.mark.parametrize("agent", [C_CORE, GO, "gRPC Java", "gRPC Node"])
async def test_clients_are_told_and_told_again_when_it_is_over(
    broker: FakeBroker, scheduler: RunningScheduler, stub: Any, agent: str
):
    broker.attach("a", 1, (METHOD,), "127.0.0.1:1", "1")
    async with ads(await scheduler.ready, agent) as client:
        manager, before = await told(client)
        assert names(manager) == ["router"]
        assert not before.typed_per_filter_config
        await stub.SetFault(wanted(), timeout=20)
        route = await until_faulty(client, faulty=True)
        fault = fault_pb2.HTTPFault()
        assert route.typed_per_filter_config["fault"].Unpack(fault)
        assert (fault.abort.grpc_status, fault.abort.percentage.numerator) == (14, 100_000)
        assert fault.delay.fixed_delay.ToMilliseconds() == 200
        async with ads(await scheduler.ready, agent) as fresh:
            manager, _ = await told(fresh)
            assert names(manager) == ["fault", "router"]
        cleared = await stub.ClearFault(pb.ClearFaultRequest(method=METHOD), timeout=20)
        assert cleared.fault.set_by == "me@here"
        assert await until_faulty(client, faulty=False) == before


async def host_of(client: Ads, *, faulty: bool) -> str:
    """The name of the service's virtual host, when it has come to that."""
    await client.say(ROUTES, [SERVICE])
    while True:
        answer = await client.hear(ROUTES)
        await client.say(ROUTES, [SERVICE], answer)
        (found,) = unpack(answer, route_pb2.RouteConfiguration)
        host = found.virtual_hosts[0]
        if bool(host.routes[0].typed_per_filter_config) is faulty:
            return host.name


# Pitfall 4: grpc-js looks at other filters only where the routes are others, too.
async def test_other_filters_are_other_routes(
    broker: FakeBroker, scheduler: RunningScheduler, stub: Any
):
    broker.attach("a", 1, (METHOD,), "127.0.0.1:1", "1")
    hosts = []
    for faulty in (False, True):
        if faulty:
            await stub.SetFault(wanted(), timeout=20)
        async with ads(await scheduler.ready, "gRPC Node") as client:
            hosts.append(await host_of(client, faulty=faulty))
    assert hosts[0] != hosts[1]


async def test_who_may_reject_a_filter_is_not_told(
    broker: FakeBroker, scheduler: RunningScheduler, stub: Any
):
    broker.attach("a", 1, (METHOD,), "127.0.0.1:1", "1")
    await stub.SetFault(wanted(), timeout=20)
    async with ads(await scheduler.ready, "gRPC Go") as client:
        await told(client)
    async with ads(await scheduler.ready, "something else") as client:
        manager, route = await told(client)
    assert names(manager) == ["router"]
    assert not route.typed_per_filter_config


async def test_a_fault_ends_by_itself(broker: FakeBroker, scheduler: RunningScheduler, stub: Any):
    broker.attach("a", 1, (METHOD,), "127.0.0.1:1", "1")
    async with ads(await scheduler.ready) as client:
        await told(client)
        with structlog.testing.capture_logs() as logged:
            await stub.SetFault(wanted(seconds=1), timeout=20)
            await until_faulty(client, faulty=True)
            await until_faulty(client, faulty=False)
    said = [each["event"] for each in logged if each["event"].startswith("fault.")]
    assert said == ["fault.set", "fault.ended"]
    assert not (await stub.ListFaults(pb.ListFaultsRequest(), timeout=20)).faults
    assert not [key for key in broker.state.entries if key.startswith(PREFIX)]


async def test_another_scheduler_goes_on_with_it(broker: FakeBroker):
    async with (
        RunningScheduler(broker.address) as first,
        grpc.aio.insecure_channel(await first.ready) as channel,
    ):
        service: Any = pb_grpc.FaultServiceStub(channel)
        await service.SetFault(wanted(), timeout=20)
    async with (
        RunningScheduler(broker.address) as second,
        grpc.aio.insecure_channel(await second.ready) as channel,
    ):
        service = pb_grpc.FaultServiceStub(channel)
        (found,) = (await service.ListFaults(pb.ListFaultsRequest(), timeout=20)).faults
        assert (found.method, found.abort.per_million) == (METHOD, 100_000)
        broker.attach("a", 1, (METHOD,), "127.0.0.1:1", "1")
        broker.figures()
        async with ads(await second.ready) as client:
            _, route = await told(client)
        assert route.typed_per_filter_config


async def test_what_cannot_be_set_says_why(stub: Any):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.SetFault(wanted(seconds=0), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == errors.Reason.INVALID_REQUEST
    assert "every fault has an end" in str(refused.value.details())
    answer = await stub.ClearFault(pb.ClearFaultRequest(method=METHOD), timeout=20)
    assert not answer.HasField("fault")


async def test_faults_are_bounded(broker: FakeBroker, stub: Any):
    async with grpc.aio.insecure_channel(broker.address) as channel:
        faults = Faults(KeyValue(channel), lambda: 2_000)
        for number in range(FAULTS_MAX):
            await faults.put(replace(FAULT, method=f"/s.S/M{number}"))
        with pytest.raises(TooManyFaultsError):
            await faults.put(FAULT)
        # In place of another.
        await faults.put(replace(FAULT, method="/s.S/M0"))
        assert len(await faults.all()) == FAULTS_MAX
