"""An operator's weights: given to keys that take turns, kept, and over when their time is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from plait import errors
from plait.control.v1 import share_service_pb2 as pb
from plait.control.v1 import share_service_pb2_grpc as pb_grpc
from plait_scheduler.domain.policy_compiler import compile_contract
from plait_scheduler.domain.shares import Share, takes_turns
from plait_scheduler.shares import book
from plait_scheduler.shares.book import entry_key
from services.scheduler.tests.contracts import SERVICE, orders, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

PLACE = f"/{SERVICE}/Place"
FAIR = "fairness_key: 'id'"


@contextlib.asynccontextmanager
async def service(scheduler: RunningScheduler) -> AsyncIterator["pb_grpc.ShareServiceAsyncStub"]:
    async with await scheduler.channel() as channel:
        yield pb_grpc.ShareServiceStub(channel)


def wanted(**fields: Any) -> pb.SetShareRequest:
    given = {"method": PLACE, "key": "acme", "weight": 3, "set_by": "ana@host"}
    return pb.SetShareRequest(**{**given, **fields})


async def sent(broker: FakeBroker) -> dict[str, int]:
    """What the broker was told next, of the one method."""
    async with asyncio.timeout(20):
        request = await broker.state.weights.get()
    assert request.method == PLACE
    return {each.key: each.weight for each in request.weights}


async def listed(shares: "pb_grpc.ShareServiceAsyncStub") -> list[pb.Share]:
    return list((await shares.ListShares(pb.ListSharesRequest(), timeout=20)).shares)


def test_its_time_is_over_when_it_says():
    share = Share(PLACE, "acme", 3, 1_000, 5_000, "", "ana@host")
    assert not share.is_over(4_999)
    assert share.is_over(5_000)
    assert not Share(PLACE, "acme", 3, 1_000, 0, "", "ana@host").is_over(10**15)


@pytest.mark.parametrize(
    ("policy", "turns"),
    [
        (FAIR, True),
        ("rate_limit: {limit: 50 key: 'id'}", True),
        ("concurrency: {key: 'id' per_key_limit: 2}", True),
        ("rate_limit: {limit: 50} concurrency: {limit: 9}", False),
        ("", False),
    ],
)
def test_keys_take_turns_where_something_is_by_key(policy: str, turns: bool):
    (compiled,) = compile_contract(orders(policy)).policies
    assert takes_turns(compiled) is turns


async def test_it_is_in_force_on_return_and_is_cleared(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(FAIR), [SERVICE])
    async with service(scheduler) as shares:
        told = (await shares.SetShare(wanted(reason="they pay"), timeout=20)).share
        assert (told.weight, told.reason, told.effective) == (3, "they pay", True)
        assert not told.HasField("expire_time")
        assert await sent(broker) == {"acme": 3}
        await shares.SetShare(wanted(key="umlaut ü/#", weight=1000), timeout=20)
        assert await sent(broker) == {"acme": 3, "umlaut ü/#": 1000}
        await shares.SetShare(wanted(weight=7), timeout=20)
        assert await sent(broker) == {"acme": 7, "umlaut ü/#": 1000}
        assert [(each.key, each.weight) for each in await listed(shares)] == [
            ("acme", 7),
            ("umlaut ü/#", 1000),
        ]
        await shares.ClearShare(pb.ClearShareRequest(method=PLACE, key="acme"), timeout=20)
        assert await sent(broker) == {"umlaut ü/#": 1000}
        assert entry_key(PLACE, "acme") not in broker.state.entries
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shares.ClearShare(pb.ClearShareRequest(method=PLACE, key="acme"), timeout=20)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert errors.reason(refused.value) == errors.Reason.SHARE_NOT_FOUND


async def test_it_follows_a_takeover(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(FAIR), [SERVICE])
    async with service(scheduler) as shares:
        await shares.SetShare(wanted(), timeout=20)
    assert await sent(broker) == {"acme": 3}
    await scheduler.stop()
    async with RunningScheduler(broker.address) as next_one:
        # Whatever was lost in between.
        assert await sent(broker) == {"acme": 3}
        async with service(next_one) as shares:
            (share,) = await listed(shares)
    assert (share.weight, share.set_by) == (3, "ana@host")


async def test_it_ends_by_itself(broker: FakeBroker, scheduler: RunningScheduler):
    await broker.announce(orders_set(FAIR), [SERVICE])
    async with service(scheduler) as shares:
        await shares.SetShare(wanted(key="other"), timeout=20)
        assert await sent(broker) == {"other": 3}
        request = wanted()
        request.valid_for.seconds = 1
        told = (await shares.SetShare(request, timeout=20)).share
        assert told.HasField("expire_time")
        assert await sent(broker) == {"acme": 3, "other": 3}
        assert await sent(broker) == {"other": 3}
        assert [each.key for each in await listed(shares)] == ["other"]


async def test_what_could_not_be_put_in_force_is_tried_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(FAIR), [SERVICE])
    broker.failures["SetWeights"] = [grpc.StatusCode.UNAVAILABLE]
    async with service(scheduler) as shares:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await shares.SetShare(wanted(), timeout=20)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await sent(broker) == {"acme": 3}
        # What could not be taken out of force is in force, and told as such.
        broker.failures["SetWeights"] = [grpc.StatusCode.UNAVAILABLE]
        with pytest.raises(grpc.aio.AioRpcError):
            await shares.ClearShare(pb.ClearShareRequest(method=PLACE, key="acme"), timeout=20)
        assert [each.key for each in await listed(shares)] == ["acme"]
        assert await sent(broker) == {"acme": 3}


async def test_it_waits_without_effect_where_keys_take_no_turns_any_more(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(orders_set(FAIR), [SERVICE])
    async with service(scheduler) as shares:
        await shares.SetShare(wanted(), timeout=20)
        await broker.announce(orders_set(""), [SERVICE])
        assert [each.effective for each in await listed(shares)] == [False]
        await broker.announce(orders_set(FAIR), [SERVICE])
        assert [each.effective for each in await listed(shares)] == [True]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": 1001}, "weight"),
        ({"key": ""}, "key"),
        ({"key": "ü" * 129}, "key"),
        ({"set_by": ""}, "set_by"),
        ({"reason": "x" * 1001}, "reason"),
        ({"method": "/s.S/" + "M" * 300}, "method"),
        ({"valid_for": {"nanos": 1}}, "valid_for"),
    ],
)
async def test_what_cannot_hold_is_refused(
    broker: FakeBroker, scheduler: RunningScheduler, fields: dict[str, Any], named: str
):
    await broker.announce(orders_set(FAIR), [SERVICE])
    async with service(scheduler) as shares:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shares.SetShare(wanted(**fields), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == errors.Reason.INVALID_REQUEST
    assert f"{named}:" in (refused.value.details() or "")


async def test_a_method_that_is_unknown_or_takes_no_turns_is_refused(
    broker: FakeBroker, scheduler: RunningScheduler
):
    async with service(scheduler) as shares:
        for announced, reason in (
            (None, errors.Reason.METHOD_UNKNOWN),
            ("concurrency: {limit: 9}", errors.Reason.STATE_CONFLICT),
        ):
            if announced is not None:
                await broker.announce(orders_set(announced), [SERVICE])
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await shares.SetShare(wanted(), timeout=20)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert errors.reason(refused.value) == reason
    assert not [name for name in broker.state.entries if name.startswith(book.PREFIX)]


async def test_there_may_be_no_more_than_there_is_room_for(
    broker: FakeBroker, scheduler: RunningScheduler, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(book, "KEYS_MAX", 2)
    await broker.announce(orders_set(FAIR), [SERVICE])
    async with service(scheduler) as shares:
        for key in ("a", "b", "a"):
            await shares.SetShare(wanted(key=key), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shares.SetShare(wanted(key="c"), timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert errors.reason(refused.value) == errors.Reason.TOO_MANY
    assert entry_key(PLACE, "c") not in broker.state.entries
