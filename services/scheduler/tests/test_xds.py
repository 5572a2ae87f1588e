"""The control plane on the wire, each client's dialect, and what is learned of rejections.

Each pitfall of xDS that was met once is a test here: they are silent, and cost a client its calls.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import UInt32Value

from plait.control.v1 import directory_service_pb2 as directory_pb
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from plait_scheduler.domain.client_kind import ClientKind, Feature, client_kind, is_told
from plait_scheduler.xds.subscription import NAMES_MAX
from plait_xds import (
    cluster_pb2,
    core_pb2,
    endpoint_pb2,
    listener_pb2,
    load_stats_pb2,
    load_stats_pb2_grpc,
    route_pb2,
)
from plait_xds import http_connection_manager_pb2 as hcm_pb2
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler
from tests.support.ads import (
    C_CORE,
    CLUSTERS,
    ENDPOINTS,
    GO,
    LISTENERS,
    NODE,
    ROUTES,
    Ads,
    ads,
    unpack,
)
from tests.support.waiting import eventually

METHODS = (f"/{SERVICE}/Place",)
NOBODY = "nobody.v1.Nobody"


@pytest.fixture
async def address(broker: FakeBroker, scheduler: RunningScheduler) -> str:
    """Of a scheduler that has heard of everybody: of nobody."""
    broker.figures()
    return await scheduler.ready


@pytest.fixture
async def go(address: str) -> AsyncIterator[Ads]:
    """A client in Go."""
    async with ads(address, GO) as opened:
        yield opened


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged from here on."""
    with structlog.testing.capture_logs() as events:
        yield events


def listen(broker: FakeBroker, worker: str, port: int, version: str = "1") -> None:
    broker.attach(worker, 1, METHODS, f"127.0.0.1:{port}", version)


async def routes(client: Ads) -> route_pb2.RouteConfiguration:
    """Those of the service, as the client is told first."""
    (found,) = unpack(await client.ask(ROUTES, SERVICE), route_pb2.RouteConfiguration)
    return found


async def cluster_of(client: Ads) -> str:
    """The name of the one that there is."""
    return (await routes(client)).virtual_hosts[0].routes[0].route.cluster


async def served(address: str) -> None:
    """Waits until the service is there: a listener with routes."""
    async with ads(address) as client:
        await client.say(LISTENERS, [SERVICE])
        while True:
            answer = await client.hear(LISTENERS)
            if manager(answer).HasField("rds"):
                return


def manager(answer: Any) -> hcm_pb2.HttpConnectionManager:
    (listener,) = unpack(answer, listener_pb2.Listener)
    found = hcm_pb2.HttpConnectionManager()
    assert listener.api_listener.api_listener.Unpack(found)
    return found


def ports(answer: Any) -> list[int]:
    (assignment,) = unpack(answer, endpoint_pb2.ClusterLoadAssignment)
    return [
        each.endpoint.address.socket_address.port_value
        for locality in assignment.endpoints
        for each in locality.lb_endpoints
    ]


async def known(address: str) -> directory_pb.GetDirectCallsResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: directory_grpc.DirectoryServiceAsyncStub = directory_grpc.DirectoryServiceStub(
            channel
        )
        return await stub.GetDirectCalls(directory_pb.GetDirectCallsRequest(), timeout=20)


async def test_a_client_is_led_from_the_service_to_its_workers(
    broker: FakeBroker, address: str, go: Ads
):
    listen(broker, "a", 1)
    await served(address)
    answer = await go.ask(LISTENERS, SERVICE)
    assert manager(answer).rds.route_config_name == SERVICE
    (host,) = (await routes(go)).virtual_hosts
    assert list(host.domains) == ["*"]
    (route,) = host.routes
    assert route.match.path == METHODS[0]
    (cluster,) = unpack(await go.ask(CLUSTERS, route.route.cluster), cluster_pb2.Cluster)
    assert cluster.type == cluster_pb2.Cluster.EDS
    assert ports(await go.ask(ENDPOINTS, cluster.eds_cluster_config.service_name)) == [1]


async def test_changes_are_told_as_they_happen(broker: FakeBroker, address: str, go: Ads):
    listen(broker, "a", 1)
    await served(address)
    name = await cluster_of(go)
    assert ports(await go.ask(ENDPOINTS, name)) == [1]
    listen(broker, "b", 2)
    assert ports(await go.hear(ENDPOINTS)) == [1, 2]
    # It drains: told again, without its endpoint.
    broker.attach("a", 1, METHODS)
    assert ports(await go.hear(ENDPOINTS)) == [2]


async def test_what_a_route_leads_to_is_told_before_the_route(
    broker: FakeBroker, address: str, go: Ads
):
    listen(broker, "a", 1)
    await served(address)
    name = await cluster_of(go)
    await go.ask(CLUSTERS, name)
    await go.ask(ENDPOINTS, name)
    await go.ask(LISTENERS, SERVICE)
    broker.attach("b", 1, METHODS, "127.0.0.1:2", "2")
    (found,) = unpack(await go.hear(ROUTES), route_pb2.RouteConfiguration)
    weights = found.virtual_hosts[0].routes[0].route.weighted_clusters.clusters
    assert [each.weight.value for each in weights] == [1, 1]
    # The cluster of the older version loses its worker together with the route to it.
    broker.attach("a", 1, METHODS)
    told = [await go.hear(), await go.hear()]
    assert [each.type_url for each in told] == [ENDPOINTS, ROUTES]
    assert ports(told[0]) == []


async def test_nothing_is_said_before_everybody_was_told(
    broker: FakeBroker, scheduler: RunningScheduler
):
    async with ads(await scheduler.ready) as client:
        await client.say(LISTENERS, [SERVICE])
        listen(broker, "a", 1)
        broker.figures()
        # Had it answered sooner, it would have said that nobody serves it.
        assert manager(await client.hear(LISTENERS)).HasField("rds")


# Pitfall 1.
@pytest.mark.parametrize(("agent", "told"), [(C_CORE, False), (GO, True), ("gRPC Java", True)])
async def test_c_core_is_told_no_timeout(broker: FakeBroker, address: str, agent: str, told: bool):
    listen(broker, "a", 1)
    await served(address)
    async with ads(address, agent) as client:
        action = (await routes(client)).virtual_hosts[0].routes[0].route
    assert action.HasField("max_stream_duration") is told
    if told:
        assert action.max_stream_duration.max_stream_duration.seconds == 60


# Pitfall 2.
async def test_the_names_of_a_stale_request_count(broker: FakeBroker, address: str, go: Ads):
    listen(broker, "a", 1)
    await served(address)
    first = await go.ask(LISTENERS, SERVICE)
    broker.attach("a", 1, METHODS)
    second = await go.hear(LISTENERS)
    assert second.nonce != first.nonce
    # Sent before the second arrived, as it were.
    await go.say(LISTENERS, [SERVICE, NOBODY], first, error="a late word on the first")
    found = unpack(await go.hear(LISTENERS), listener_pb2.Listener)
    assert [each.name for each in found] == [NOBODY, SERVICE]
    assert (await known(address)).rejected == 0


async def test_a_name_that_is_dropped_and_wanted_again_is_told_again(
    broker: FakeBroker, address: str, go: Ads
):
    listen(broker, "a", 1)
    await served(address)
    first = await go.ask(LISTENERS, SERVICE)
    await go.say(LISTENERS, [NOBODY], first)
    second = await go.hear(LISTENERS)
    await go.say(LISTENERS, [SERVICE], second)
    (found,) = unpack(await go.hear(LISTENERS), listener_pb2.Listener)
    assert found.name == SERVICE


# Pitfall 3, and load reports.
async def test_every_cluster_names_a_server_for_load_reports(
    broker: FakeBroker, address: str, go: Ads
):
    listen(broker, "a", 1)
    await served(address)
    gone = f"{SERVICE}@0~123456789abc"
    for name in (await cluster_of(go), gone):
        await go.say(CLUSTERS, [name])
        (cluster,) = unpack(await go.hear(CLUSTERS), cluster_pb2.Cluster)
        assert cluster.lrs_server.HasField("self")
        assert cluster.circuit_breakers.thresholds[0].max_requests.value == 1024


# Pitfall 4: test_call_faults.py, test_other_filters_are_other_routes.


# Pitfall 5.
async def test_a_service_nobody_serves_has_a_listener_without_routes(address: str, go: Ads):
    found = manager(await go.ask(LISTENERS, NOBODY))
    assert found.route_config.name == NOBODY
    assert not found.route_config.virtual_hosts
    # Where grpc-js finds no host, it leaves the call waiting.
    async with ads(address, NODE) as node:
        (host,) = manager(await node.ask(LISTENERS, NOBODY)).route_config.virtual_hosts
        assert (list(host.domains), list(host.routes)) == (["*"], [])


# Pitfall 6.
async def test_a_rejected_configuration_is_an_alarm_and_is_held_back(
    broker: FakeBroker, address: str, go: Ads, logged: list[Any]
):
    await broker.announce(orders_set(), [SERVICE])
    listen(broker, "a", 1)
    await served(address)
    good = await routes(go)
    await broker.announce(orders_set("attempt_timeout: {seconds: 7}"), [SERVICE])
    bad = await go.hear(ROUTES)
    assert unpack(bad, route_pb2.RouteConfiguration) != [good]
    await go.say(ROUTES, [SERVICE], bad, error=f"{SERVICE}: no such thing as seven seconds")
    # All get the last one that all accepted: the one that rejected, and those that come later.
    assert unpack(await go.hear(ROUTES), route_pb2.RouteConfiguration) == [good]
    async with ads(address, GO) as later:
        assert await routes(later) == good
    found = await known(address)
    assert found.rejected == 1
    (rejection,) = found.rejections
    assert rejection.type == "envoy.config.route.v3.RouteConfiguration"
    assert list(rejection.names) == [SERVICE]
    assert rejection.error.endswith("seven seconds")
    assert go.node.id in rejection.node
    (alarm,) = [each for each in logged if each["event"] == "configuration.rejected"]
    assert alarm["log_level"] == "error"
    # The next version gets its chance.
    await broker.announce(orders_set("attempt_timeout: {seconds: 8}"), [SERVICE])
    (next_one,) = unpack(await go.hear(ROUTES), route_pb2.RouteConfiguration)
    timeout = next_one.virtual_hosts[0].routes[0].route.max_stream_duration
    assert timeout.max_stream_duration.seconds == 8


async def test_endpoints_are_never_held_back(broker: FakeBroker, address: str, go: Ads):
    listen(broker, "a", 1)
    await served(address)
    name = await cluster_of(go)
    await go.ask(ENDPOINTS, name)
    listen(broker, "b", 2)
    answer = await go.hear(ENDPOINTS)
    await go.say(ENDPOINTS, [name], answer, error="too many")
    # A rejection that crosses a newer answer is of something that is over, and does not count.
    await eventually(lambda: known(address), lambda found: found.rejected == 1)
    broker.attach("a", 1, METHODS)
    assert ports(await go.hear(ENDPOINTS)) == [2]


# Pitfall 8.
async def test_endpoints_weigh_the_same(broker: FakeBroker, address: str, go: Ads):
    listen(broker, "a", 1)
    listen(broker, "b", 2)
    await served(address)
    (found,) = unpack(
        await go.ask(ENDPOINTS, await cluster_of(go)), endpoint_pb2.ClusterLoadAssignment
    )
    (locality,) = found.endpoints
    assert {each.load_balancing_weight.value for each in locality.lb_endpoints} == {1}
    assert locality.load_balancing_weight == UInt32Value(value=1)


# Pitfall 10.
async def test_what_a_client_would_ignore_is_said_once(
    broker: FakeBroker, address: str, logged: list[Any]
):
    listen(broker, "a", 1)
    await served(address)
    for _ in range(2):
        async with ads(address, C_CORE) as client:
            await client.ask(LISTENERS, SERVICE)
            # An answer to the next request comes after the acceptance was read.
            await client.ask(ROUTES, SERVICE)
    (warning,) = [each for each in logged if each["event"] == "client.limited"]
    assert warning["kind"] == "C-core"
    assert warning["ignores"] == ["default deadlines"]


def test_clients_are_known_by_their_user_agents():
    assert client_kind(C_CORE) is ClientKind.C_CORE
    assert client_kind(NODE) is ClientKind.NODE
    assert client_kind("envoy") is ClientKind.OTHER
    # Attempts and deadlines are an SDK's own, whatever library is under it.
    assert client_kind(C_CORE, "plait-python/0.1.0 77") is ClientKind.PLAIT
    assert not is_told(ClientKind.PLAIT, Feature.RETRY)
    assert not is_told(ClientKind.PLAIT, Feature.TIMEOUT)
    assert is_told(ClientKind.PLAIT, Feature.OUTLIER)
    assert is_told(ClientKind.C_CORE, Feature.RETRY)
    assert not is_told(ClientKind.C_CORE, Feature.TIMEOUT)
    assert is_told(ClientKind.GO, Feature.TIMEOUT)
    assert not is_told(ClientKind.RUST, Feature.OUTLIER)


async def test_an_endpoint_that_would_spoil_its_cluster_is_left_out(
    broker: FakeBroker, address: str, go: Ads, logged: list[Any]
):
    broker.attach("named", 1, METHODS, "localhost:1", "1")
    listen(broker, "a", 2)
    await served(address)
    assert ports(await go.ask(ENDPOINTS, await cluster_of(go))) == [2]
    assert [each["worker"] for each in logged if each["event"] == "endpoint.unusable"] == ["named"]


async def test_too_many_names_end_the_stream(go: Ads):
    await go.say(LISTENERS, [f"s{number}.S" for number in range(NAMES_MAX + 1)])
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await go.hear()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_type_is_passed_over(go: Ads):
    await go.say("type.googleapis.com/envoy.service.runtime.v3.Runtime", ["x"])
    await go.ask(LISTENERS, NOBODY)


async def test_a_scheduler_that_stands_by_sends_clients_away(
    broker: FakeBroker, address: str, go: Ads
):
    await go.ask(LISTENERS, NOBODY)
    broker.depose()
    with pytest.raises(grpc.aio.AioRpcError, match="elsewhere:1") as error:
        await go.hear()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_does_not_wait_for_clients(scheduler: RunningScheduler, go: Ads):
    await go.ask(LISTENERS, NOBODY)
    async with asyncio.timeout(20):
        await scheduler.stop()


async def test_policies_that_cannot_be_read_are_read_later(
    broker: FakeBroker, address: str, go: Ads
):
    await broker.announce(orders_set("attempt_timeout: {seconds: 7}"), [SERVICE])
    # As often as one reading tries, and once more.
    broker.failures["GetContract"] = [grpc.StatusCode.INTERNAL] * 2
    listen(broker, "a", 1)
    await served(address)
    broker.figures()
    await go.say(ROUTES, [SERVICE])
    seconds = 0
    while seconds != 7:
        (found,) = unpack(await go.hear(ROUTES), route_pb2.RouteConfiguration)
        action = found.virtual_hosts[0].routes[0].route
        seconds = action.max_stream_duration.max_stream_duration.seconds
        broker.figures()


async def test_load_reports_are_added_up(address: str):
    name = f"{SERVICE}@1~123456789abc"
    stats = endpoint_pb2.ClusterStats(cluster_name=name, total_dropped_requests=2)
    stats.upstream_locality_stats.add(
        locality=core_pb2.Locality(region="plait", zone="mesh"),
        total_issued_requests=7,
        total_successful_requests=4,
        total_error_requests=3,
    )
    foreign = endpoint_pb2.ClusterStats(cluster_name="not ours", total_dropped_requests=9)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: load_stats_pb2_grpc.LoadReportingServiceAsyncStub
        stub = load_stats_pb2_grpc.LoadReportingServiceStub(channel)
        call = stub.StreamLoadStats()
        await call.write(load_stats_pb2.LoadStatsRequest())
        answer = await call.read()
        assert isinstance(answer, load_stats_pb2.LoadStatsResponse)
        assert answer.send_all_clusters
        assert answer.load_reporting_interval.seconds == 1
        for _ in range(2):
            await call.write(load_stats_pb2.LoadStatsRequest(cluster_stats=[stats, foreign]))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
    first, second = (await known(address)).loads
    assert (first.cluster, first.locality, first.dropped) == (name, "", 4)
    assert (second.issued, second.succeeded, second.failed) == (14, 8, 6)
    assert second.locality == "plait/mesh"
