"""Rollouts reach the broker: by hand, by steps, by what attempts say; again where it forgot."""

import asyncio
import contextlib
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from plait import errors
from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import directory_service_pb2 as directory
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from plait.control.v1 import rollout_service_pb2 as pb
from plait.control.v1 import rollout_service_pb2_grpc as pb_grpc
from plait_scheduler.domain.mesh import cluster_name
from plait_xds import core_pb2, endpoint_pb2, load_stats_pb2, load_stats_pb2_grpc
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler
from tests.support.waiting import elapse, eventually

PLACE = f"/{SERVICE}/Place"
OK = pb.ROLLOUT_STATE_RUNNING


class Desk:
    """Asks a scheduler's rollout service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: pb_grpc.RolloutServiceAsyncStub = pb_grpc.RolloutServiceStub(channel)

    async def start(self, **fields: Any) -> pb.Rollout:
        request = pb.StartRolloutRequest(service=SERVICE, to="2", **fields)
        return (await self.stub.StartRollout(request, timeout=20)).rollout

    async def get(self) -> pb.Rollout:
        request = pb.GetRolloutRequest(service=SERVICE)
        return (await self.stub.GetRollout(request, timeout=20)).rollout


@contextlib.asynccontextmanager
async def desk(scheduler: RunningScheduler):
    async with await scheduler.channel() as channel:
        yield Desk(channel)


async def told(broker: FakeBroker, *wanted: tuple[str, int]) -> None:
    """Waits until the broker was told exactly these versions and shares."""
    async with asyncio.timeout(20):
        while True:
            splits = await broker.state.splits.get()
            if [(split.version, split.share) for split in splits] == list(wanted):
                return


def attempts(count: int, failed: int = 0) -> control_pb.SideFigures:
    outcomes = [count - failed, *[0] * 12, failed]
    return control_pb.SideFigures(workers=1, outcomes=outcomes, busy_ms=count, spans=[0, count])


def figures(broker: FakeBroker, own: control_pb.SideFigures) -> None:
    seen = control_pb.SplitFigures(method=PLACE, version="2", own=own, others=attempts(100))
    broker.figures(splits=[seen])


async def test_what_is_said_is_told_and_kept(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(), [SERVICE])
    broker.attach("a", 1, (PLACE,), version="1")
    broker.attach("b", 1, (PLACE,), version="2")
    async with desk(scheduler) as service:
        while len(await listed(scheduler)) < 2:
            pass
        begun = await service.start(share=500, sticky=control_pb.STICKY_KEY_ORDERING)
        assert (begun.to, getattr(begun, "from"), begun.share) == ("2", "1", 500)
        assert (begun.rollback.error_margin, begun.rollback.samples_min) == (100, 50)
        await told(broker, ("2", 500))
        answer = await service.stub.SetRollout(
            pb.SetRolloutRequest(service=SERVICE, share=2_000), timeout=20
        )
        assert answer.rollout.share == 2_000
        await told(broker, ("2", 2_000))
        await service.stub.PromoteRollout(pb.PromoteRolloutRequest(service=SERVICE), timeout=20)
        await told(broker, ("1", 0))
        await service.stub.AbortRollout(
            pb.AbortRolloutRequest(service=SERVICE, reason="it smells"), timeout=20
        )
        await told(broker, ("2", 0))
        found = await service.get()
        assert found.reason == "aborted: it smells"
        assert [event.share for event in found.events] == [500, 2_000, 10_000, 0]
        (one,) = (await service.stub.ListRollouts(pb.ListRolloutsRequest(), timeout=20)).rollouts
        assert one.service == SERVICE
        await service.stub.EndRollout(pb.EndRolloutRequest(service=SERVICE), timeout=20)
        await told(broker)


async def listed(scheduler: RunningScheduler) -> list[str]:
    async with await scheduler.channel() as channel:
        stub: directory_grpc.DirectoryServiceAsyncStub = directory_grpc.DirectoryServiceStub(
            channel
        )
        answer = await stub.ListWorkers(directory.ListWorkersRequest(), timeout=20)
    return [each.worker for each in answer.workers]


async def test_steps_go_on_and_end_in_everything(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(), [SERVICE])
    steps = [pb.RolloutStep(share=share, hold=Duration(nanos=1)) for share in (100, 10_000)]
    async with desk(scheduler) as service:
        await service.start(steps=steps, **{"from": "1"})
        await told(broker, ("2", 100))
        figures(broker, attempts(50))
        await told(broker, ("2", 10_000))
        figures(broker, attempts(50))
        await told(broker, ("1", 0))
        found = await service.get()
        assert (found.state, found.step) == (pb.ROLLOUT_STATE_PROMOTED, 1)


async def test_a_version_that_fails_is_taken_back(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(), [SERVICE])
    async with desk(scheduler) as service:
        await service.start(share=500)
        await told(broker, ("2", 500))
        # At two times, or it might be one mishap.
        figures(broker, attempts(40, failed=40))
        await elapse(1.0)
        figures(broker, attempts(40, failed=40))
        await told(broker, ("2", 0))
        found = await service.get()
        assert found.state == pb.ROLLOUT_STATE_ROLLED_BACK
        assert "80 of 80 attempts failed" in found.reason
        # Another one may begin.
        await service.start(share=100)
        await told(broker, ("2", 100))


async def report(stub: Any, version: str, well: int, failed: int) -> None:
    """A client says what became of its calls, and ends."""
    stats = endpoint_pb2.ClusterStats(cluster_name=cluster_name(SERVICE, version, [PLACE]))
    stats.upstream_locality_stats.add(
        locality=core_pb2.Locality(region="plait", zone="mesh"),
        total_issued_requests=well + failed,
        total_successful_requests=well,
        total_error_requests=failed,
    )
    call = stub.StreamLoadStats()
    await call.write(load_stats_pb2.LoadStatsRequest(cluster_stats=[stats]))
    await call.done_writing()
    # Asked for, once.
    assert len([answer async for answer in call]) == 1


async def test_a_version_whose_direct_calls_fail_is_taken_back(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    async with desk(scheduler) as service, await scheduler.channel() as channel:
        stub = load_stats_pb2_grpc.LoadReportingServiceStub(channel)
        await service.start(share=500)
        await told(broker, ("2", 500))
        # At two times, or it might be one mishap.
        for _ in range(2):
            await report(stub, "1", 100, 1)
            for _ in range(2):
                await report(stub, "2", 0, 20)
            # The version has no tasks.
            figures(broker, attempts(0))
            await elapse(1.0)
        await told(broker, ("2", 0))
        found = await service.get()
        assert found.state == pb.ROLLOUT_STATE_ROLLED_BACK
        assert found.reason.startswith("direct calls: 80 of 80 attempts failed, of other")
        assert (found.own.attempts, found.others.calls, found.others.failed_calls) == (0, 202, 2)


async def test_direct_calls_that_end_well_let_steps_be_taken(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    steps = [pb.RolloutStep(share=share, hold=Duration(nanos=1)) for share in (100, 200)]
    async with desk(scheduler) as service, await scheduler.channel() as channel:
        stub = load_stats_pb2_grpc.LoadReportingServiceStub(channel)
        await service.start(steps=steps)
        await told(broker, ("2", 100))
        await report(stub, "2", 49, 0)
        await report(stub, "1", 1_000, 0)
        broker.figures()
        await until_calls(service, 49)
        assert (await service.get()).share == 100
        await report(stub, "2", 1, 0)
        broker.figures()
        await told(broker, ("2", 200))


async def until_calls(service: Desk, count: int) -> None:
    """Waits until so many of the version are known."""
    await eventually(service.get, lambda found: found.own.calls == count)


async def test_a_broker_that_comes_again_is_told_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(), [SERVICE])
    async with desk(scheduler) as service:
        await service.start(share=500)
        await told(broker, ("2", 500))
        broker.failures["SetSplits"] = [grpc.StatusCode.UNAVAILABLE]
        broker.end_stream()
        await broker.opened(2)
        broker.figures()
        await told(broker, ("2", 500))


async def test_the_next_scheduler_goes_on(broker: FakeBroker):
    async with RunningScheduler(broker.address) as first:
        await first.ready
        await broker.announce(orders_set(), [SERVICE])
        async with desk(first) as service:
            await service.start(share=500)
        await told(broker, ("2", 500))
    async with RunningScheduler(broker.address) as second:
        await told(broker, ("2", 500))
        async with desk(second) as service:
            assert (await service.get()).share == 500


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"share": 10_001}, "share"), ({"from": "2"}, "to"), ({"sticky": 9}, "sticky")],
)
async def test_what_cannot_be_is_refused(
    broker: FakeBroker, scheduler: RunningScheduler, fields: dict[str, Any], field: str
):
    async with desk(scheduler) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.start(**fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").startswith(f"{field}: ")
        # Known to nobody.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.start(share=1)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.get()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert errors.reason(caught.value) == errors.Reason.ROLLOUT_NOT_FOUND


async def test_one_at_a_time(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(), [SERVICE])
    async with desk(scheduler) as service:
        assert (await service.start(share=1)).state == OK
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.start(share=1)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "is under way" in (caught.value.details() or "")
