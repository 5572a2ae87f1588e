"""One stream to the broker, opened again whatever ends it."""

import asyncio
import random

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from tenacity import AsyncRetrying

from plait import errors
from plait.control.v1 import control_service_pb2 as pb
from plait_scheduler.broker.events import to_event
from plait_scheduler.broker.retry import bounded, unbounded
from plait_scheduler.loops.observer import ObserverConfig
from plait_scheduler.scheduler import ADDRESS_KEY
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

PLAIN = orders_set()


async def test_it_waits_for_a_broker_that_is_not_there_yet():
    broker = FakeBroker()
    await broker.start()
    await broker.stop()
    async with RunningScheduler(broker.address) as scheduler:
        async with asyncio.timeout(20):
            await broker.start()
            address = await scheduler.ready
        assert broker.state.entries[ADDRESS_KEY].value == address.encode()
    await broker.stop()


async def test_it_survives_restarts_of_the_broker(broker: FakeBroker, scheduler: RunningScheduler):
    for restart in range(3):
        await broker.stop()
        await broker.start()
        async with asyncio.timeout(20):
            await broker.opened(restart + 2)
    decision = await broker.announce(PLAIN, [SERVICE])
    assert decision.policies
    assert len(set(broker.observers)) == 1


async def test_a_stream_that_is_cut_is_opened_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    broker.end_stream()
    async with asyncio.timeout(20):
        await broker.opened(2)
    assert (await broker.announce(PLAIN, [SERVICE])).policies


async def test_an_address_that_cannot_be_written_is_tried_again(broker: FakeBroker):
    # The lead can be taken; the address and renewals beside it cannot be written for a while.
    broker.failures["PutEntry"] = [grpc.StatusCode.OK, *[grpc.StatusCode.INTERNAL] * 5]
    async with RunningScheduler(broker.address) as scheduler, asyncio.timeout(20):
        address = await scheduler.ready
        assert broker.state.entries[ADDRESS_KEY].value == address.encode()
    assert broker.failures["PutEntry"] == []


async def test_leave_is_taken_on_stop(broker: FakeBroker):
    async with RunningScheduler(broker.address) as scheduler:
        await scheduler.ready
        assert ADDRESS_KEY in broker.state.entries
        await scheduler.stop()
    assert ADDRESS_KEY not in broker.state.entries


async def test_a_stop_does_not_wait_for_a_broker_that_is_gone(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.stop()
    async with asyncio.timeout(5):
        await scheduler.stop()


def test_an_event_that_is_not_known_is_none():
    unknown = pb.ObserveResponse()
    # Field 99 with one byte: an event of a later version.
    unknown.MergeFromString(b"\x9a\x06\x01x")
    assert to_event(unknown) is None


def unavailable(retry_after_ms: int | None) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=14, message="as told")
    if retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_after_ms)
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(packed)
    return errors.from_status(status)


async def pauses(retrying: AsyncRetrying, *failures: Exception) -> list[float]:
    """What a call that fails so often waits, without waiting."""
    waited: list[float] = []

    async def record(seconds: float) -> None:
        waited.append(seconds)

    left = list(failures)
    async for attempt in retrying.copy(sleep=record):
        with attempt:
            if left:
                raise left.pop(0)
    return waited


async def test_retry_info_is_obeyed_exactly():
    waited = await pauses(bounded(), unavailable(1230), unavailable(40))
    assert waited == [1.23, 0.04]


async def test_pauses_have_full_jitter_and_a_bound():
    random.seed(1)
    waited = await pauses(unbounded(lambda _: None), *[unavailable(None)] * 200)
    assert len(waited) == 200
    assert max(waited) <= 2.0
    assert min(waited[20:]) < 0.2
    assert max(waited[20:]) > 1.8
    assert waited[0] <= 0.1


async def test_an_error_that_does_not_pass_is_raised():
    refused = errors.new(grpc.StatusCode.INVALID_ARGUMENT, errors.Reason.INVALID_REQUEST, "as told")
    with pytest.raises(grpc.aio.AioRpcError):
        await pauses(bounded(), refused)


@pytest.mark.parametrize(
    "config",
    [ObserverConfig(""), ObserverConfig("s", figures_interval_ms=49)],
)
def test_what_makes_no_sense_is_refused(config: ObserverConfig):
    with pytest.raises(ValueError, match=r"observer|figures"):
        config.validate()
