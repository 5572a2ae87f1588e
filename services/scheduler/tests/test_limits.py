"""An operator's limits: in place of a contract's, kept, and over when their time is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from plait import errors
from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import limit_service_pb2 as pb
from plait.control.v1 import limit_service_pb2_grpc as pb_grpc
from plait_scheduler.domain.limits import Override, Rate, limited
from plait_scheduler.domain.policy_compiler import compile_contract
from plait_scheduler.limits.book import PREFIX
from services.scheduler.tests.contracts import SERVICE, orders, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

PLACE = f"/{SERVICE}/Place"
POLICY = "rate_limit: {limit: 50 key: 'id'} concurrency: {limit: 9}"


def override(**fields: Any) -> Override:
    given = {
        "method": PLACE,
        "rate": None,
        "concurrency": None,
        "set_ms": 1_000,
        "expire_ms": 0,
        "reason": "",
        "set_by": "ana@host",
    }
    return Override(**{**given, **fields})


@contextlib.asynccontextmanager
async def service(scheduler: RunningScheduler) -> AsyncIterator["pb_grpc.LimitServiceAsyncStub"]:
    async with await scheduler.channel() as channel:
        yield pb_grpc.LimitServiceStub(channel)


def wanted(**fields: Any) -> pb.SetLimitRequest:
    return pb.SetLimitRequest(**{"method": PLACE, "set_by": "ana@host", **fields})


async def next_limits(broker: FakeBroker) -> control_pb.MethodLimits:
    async with asyncio.timeout(20):
        (limits,) = await broker.state.limits.get()
    return limits


def test_what_is_not_set_is_as_the_contract_says():
    (policy,) = compile_contract(orders(POLICY)).policies
    assert limited(policy, None) == policy
    changed = limited(policy, override(concurrency=4))
    assert (changed.concurrency_limit, changed.rate_limit) == (4, policy.rate_limit)
    changed = limited(policy, override(rate=Rate(10, 60_000, 2)))
    assert changed.rate_limit is not None
    # By key where the contract's rate is.
    rate = changed.rate_limit
    assert (rate.limit, rate.period_ms, rate.burst, rate.by_key) == (10, 60_000, 2, True)
    assert changed.concurrency_limit == 9
    freed = limited(policy, override(rate=Rate(0, 1_000, 0), concurrency=0))
    assert (freed.rate_limit, freed.concurrency_limit) == (None, 0)


def test_its_time_is_over_when_it_says():
    assert not override().is_over(10**15)
    assert not override(expire_ms=5_000).is_over(4_999)
    assert override(expire_ms=5_000).is_over(5_000)


async def test_it_is_in_force_on_return_and_is_cleared(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(POLICY), [SERVICE])
    async with service(scheduler) as limits:
        request = wanted(rate=pb.Rate(limit=10), concurrency=4, reason="incident")
        told = (await limits.SetLimit(request, timeout=20)).method
        sent = broker.state.limits.get_nowait()[0]
        assert (sent.rate_limit, sent.rate_period_ms, sent.rate_burst) == (10, 1_000, 10)
        assert (sent.concurrency_limit, sent.rate_by_key) == (4, True)
        assert (told.contract.concurrency, told.in_force.concurrency) == (9, 4)
        assert (told.override.reason, told.override.HasField("expire_time")) == ("incident", False)
        (listed,) = (await limits.ListLimits(pb.ListLimitsRequest(), timeout=20)).methods
        assert listed == told
        cleared = await limits.ClearLimit(pb.ClearLimitRequest(method=PLACE), timeout=20)
        assert cleared.method.in_force == cleared.method.contract
        sent = broker.state.limits.get_nowait()[0]
        assert (sent.rate_limit, sent.concurrency_limit) == (50, 9)
        assert PREFIX + PLACE not in broker.state.entries
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await limits.ClearLimit(pb.ClearLimitRequest(method=PLACE), timeout=20)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert errors.reason(refused.value) == errors.Reason.LIMIT_NOT_FOUND
        # Of a service, those too that nobody has set.
        of_service = await limits.ListLimits(pb.ListLimitsRequest(service=SERVICE), timeout=20)
        assert [each.method for each in of_service.methods] == [PLACE]


async def test_another_contract_comes_with_the_operators_limits(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(POLICY), [SERVICE])
    async with service(scheduler) as limits:
        await limits.SetLimit(wanted(concurrency=4), timeout=20)
        decision = await broker.announce(orders_set("concurrency: {limit: 7}"), [SERVICE])
        (policy,) = decision.policies
        assert (policy.concurrency_limit, policy.rate_limit) == (4, 0)
        cleared = await limits.ClearLimit(pb.ClearLimitRequest(method=PLACE), timeout=20)
        assert cleared.method.in_force.concurrency == 7


async def test_it_follows_a_takeover(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(POLICY), [SERVICE])
    async with service(scheduler) as limits:
        await limits.SetLimit(wanted(concurrency=4), timeout=20)
    assert (await next_limits(broker)).concurrency_limit == 4
    await scheduler.stop()
    async with RunningScheduler(broker.address) as next_one:
        # Whatever was lost in between.
        assert (await next_limits(broker)).concurrency_limit == 4
        async with service(next_one) as limits:
            (listed,) = (await limits.ListLimits(pb.ListLimitsRequest(), timeout=20)).methods
    assert (listed.in_force.concurrency, listed.override.set_by) == (4, "ana@host")


async def test_it_ends_by_itself(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(POLICY), [SERVICE])
    async with service(scheduler) as limits:
        request = wanted(concurrency=4)
        request.valid_for.seconds = 1
        told = (await limits.SetLimit(request, timeout=20)).method
        assert told.override.HasField("expire_time")
        assert (await next_limits(broker)).concurrency_limit == 4
        assert (await next_limits(broker)).concurrency_limit == 9
        assert not (await limits.ListLimits(pb.ListLimitsRequest(), timeout=20)).methods


async def test_what_could_not_be_put_in_force_is_tried_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(POLICY), [SERVICE])
    broker.failures["SetLimits"] = [grpc.StatusCode.UNAVAILABLE]
    async with service(scheduler) as limits:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await limits.SetLimit(wanted(concurrency=4), timeout=20)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await next_limits(broker)).concurrency_limit == 4


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "rate"),
        ({"rate": pb.Rate(limit=1_000_000_001)}, "rate"),
        ({"concurrency": 2**31}, "concurrency"),
        ({"concurrency": 1, "set_by": ""}, "set_by"),
        ({"concurrency": 1, "reason": "x" * 1001}, "reason"),
        ({"concurrency": 1, "method": "/s.S/" + "M" * 300}, "method"),
        ({"concurrency": 1, "valid_for": {"nanos": 1}}, "valid_for"),
        ({"rate": {"limit": 1, "period": {"seconds": -1}}}, "rate.period"),
    ],
)
async def test_what_cannot_hold_is_refused(
    broker: FakeBroker, scheduler: RunningScheduler, fields: dict[str, Any], named: str
):
    async with service(scheduler) as limits:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await limits.SetLimit(wanted(**fields), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == errors.Reason.INVALID_REQUEST
    assert f"{named}:" in (refused.value.details() or "")


async def test_a_method_without_a_contract_has_no_limits(
    broker: FakeBroker, scheduler: RunningScheduler
):
    async with service(scheduler) as limits:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await limits.SetLimit(wanted(concurrency=1), timeout=20)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert errors.reason(refused.value) == errors.Reason.METHOD_UNKNOWN
