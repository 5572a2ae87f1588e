"""The breaker loop: gates reach the broker, by the policies in force."""

import asyncio
import contextlib

import grpc

from plait.control.v1 import breaker_service_pb2 as pb
from plait.control.v1 import breaker_service_pb2_grpc as pb_grpc
from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import directory_service_pb2 as directory_pb
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

PLACE = f"/{SERVICE}/Place"


def failing(count: int, permits: int | None = None) -> control_pb.MethodFigures:
    codes = [0] * 14 + [count, 0, 0]
    return control_pb.MethodFigures(method=PLACE, fresh_outcomes=codes, permits=permits)


async def next_gate(broker: FakeBroker) -> control_pb.MethodGate:
    async with asyncio.timeout(20):
        (gate,) = await broker.state.gates.get()
    return gate


async def told_again(
    broker: FakeBroker, figures: control_pb.MethodFigures
) -> control_pb.MethodGate:
    """The gate that figures lead to, which come again and again, as a broker's do: the first may
    come before the scheduler has noted that the contract that it accepted is in force.
    """
    async with asyncio.timeout(20):
        while True:
            broker.figures(methods=[figures])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    return await next_gate(broker)


async def test_a_method_that_fails_is_parked_by_its_policy(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set("breaker: {min_calls: 5 open: {seconds: 40}}"), [SERVICE])
    broker.figures(methods=[failing(4)])
    broker.figures(methods=[failing(1)])
    gate = await next_gate(broker)
    assert (gate.method, gate.permits, gate.valid_for.seconds) == (PLACE, 0, 45)
    async with await scheduler.channel() as channel:
        stub: pb_grpc.BreakerServiceAsyncStub = pb_grpc.BreakerServiceStub(channel)
        (breaker,) = (await stub.ListBreakers(pb.ListBreakersRequest(), timeout=20)).breakers
    assert (breaker.method, breaker.state, breaker.openings) == (PLACE, pb.BREAKER_STATE_OPEN, 1)
    assert 30 <= breaker.open_for.seconds <= 40
    # The breaker is turned off, and the gate goes.
    await broker.announce(orders_set("breaker: {disabled: true}"), [SERVICE])
    gate = await told_again(broker, failing(0, permits=0))
    assert not gate.HasField("permits")


async def test_a_gate_that_could_not_be_set_is_set_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    broker.failures["SetGates"] = [grpc.StatusCode.UNAVAILABLE]
    broker.figures(methods=[failing(20)])
    broker.figures(methods=[failing(0)])
    assert (await next_gate(broker)).permits == 0


async def test_a_broker_that_comes_again_is_told_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    broker.figures(methods=[failing(20)])
    assert (await next_gate(broker)).permits == 0
    broker.end_stream()
    await broker.opened(2)
    broker.figures(methods=[])
    assert (await next_gate(broker)).permits == 0


async def test_methods_without_a_contract_have_no_breaker(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    other = control_pb.MethodFigures(method="/s.S/M", fresh_outcomes=[0] * 14 + [99, 0, 0])
    broker.figures(methods=[other, failing(20)])
    assert (await next_gate(broker)).method == PLACE


async def test_a_worker_that_fails_alone_gets_no_attempts(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    for worker in ("ill", "well", "better"):
        broker.attach(worker, 4, (PLACE,))
    said = {"ill": (0, 30), "well": (20, 0), "better": (20, 0)}
    workers = [
        control_pb.WorkerFigures(worker=worker, slots=4, methods=[0], well=[well], ill=[ill])
        for worker, (well, ill) in said.items()
    ]
    # More than the method's breaker bears, but they are that worker's.
    method = control_pb.MethodFigures(
        method=PLACE, fresh_outcomes=[40, *[0] * 13, 30, 0, 0], submitted=1
    )
    broker.figures(*workers, methods=[method], early=True)
    async with asyncio.timeout(20):
        (gate,) = await broker.state.worker_gates.get()
    assert (gate.worker, gate.permits, gate.valid_for.seconds) == ("ill", 0, 10)
    async with await scheduler.channel() as channel:
        breakers: pb_grpc.BreakerServiceAsyncStub = pb_grpc.BreakerServiceStub(channel)
        (found,) = (await breakers.ListBreakers(pb.ListBreakersRequest(), timeout=20)).breakers
        assert found.state == pb.BREAKER_STATE_CLOSED
        directory: directory_grpc.DirectoryServiceAsyncStub = directory_grpc.DirectoryServiceStub(
            channel
        )
        listed = await directory.ListWorkers(directory_pb.ListWorkersRequest(), timeout=20)
    states = {each.worker: each.breaker for each in listed.workers}
    closed = pb.BREAKER_STATE_CLOSED
    assert states == {"ill": pb.BREAKER_STATE_OPEN, "well": closed, "better": closed}
    # Early figures are no turn of the allocator's.
    assert broker.state.windows.empty()
