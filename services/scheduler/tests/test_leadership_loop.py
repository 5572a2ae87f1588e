"""Two schedulers and one broker: who leads, who stands by, and who is refused."""

import asyncio
from typing import Any

import grpc
import msgspec
import pytest

from plait import errors
from plait.control.v1 import directory_service_pb2 as directory_pb
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from plait_scheduler.broker.leader_keys import LEADER_KEY, Leader
from plait_scheduler.scheduler import ADDRESS_KEY
from plait_xds import discovery_pb2, discovery_pb2_grpc
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker, State
from services.scheduler.tests.running import RunningScheduler

PLAIN = orders_set()
LEASE: dict[str, Any] = {"lease_ms": 1000}
PATIENCE_S = 30


def leader(broker: FakeBroker) -> tuple[int, Leader]:
    """The epoch and who has it."""
    entry = broker.state.entries[LEADER_KEY]
    return entry.version, msgspec.json.decode(entry.value, type=Leader)


async def refusal(address: str) -> grpc.aio.AioRpcError:
    """How a scheduler that does not lead answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: directory_grpc.DirectoryServiceAsyncStub
        stub = directory_grpc.DirectoryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListWorkers(directory_pb.ListWorkersRequest(), timeout=PATIENCE_S)
    return refused.value


async def test_one_leads_and_the_other_stands_by_and_says_who_leads(broker: FakeBroker):
    async with RunningScheduler(broker.address) as first, asyncio.timeout(PATIENCE_S):
        leading = await first.ready
        epoch, told = leader(broker)
        assert told.address == leading
        async with RunningScheduler(broker.address) as second:
            address = await second.ready
            refused = await refusal(address)
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            assert errors.reason(refused) == errors.Reason.SCHEDULER_UNAVAILABLE
            assert errors.metadata(refused) == {"leader": leading}
            async with await second.channel() as channel:
                ads = discovery_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
                call = ads.StreamAggregatedResources(iter([discovery_pb2.DiscoveryRequest()]))
                with pytest.raises(grpc.aio.AioRpcError, match=leading):
                    await call.read()
            assert (await broker.announce(PLAIN, [SERVICE])).policies
        assert leader(broker)[0] == epoch
        assert len(broker.observers) == 1
        assert broker.state.entries[ADDRESS_KEY].value == leading.encode()


async def test_a_stop_hands_over_at_once(broker: FakeBroker):
    # Its end is not waited for here.
    async with RunningScheduler(broker.address, lease_ms=20_000) as first:
        await first.ready
        epoch, _ = leader(broker)
        second = RunningScheduler(broker.address, lease_ms=200)
        async with second:
            # It is ready when it knows that the first one lives: at a renewal.
            async with asyncio.timeout(PATIENCE_S):
                address = await second.ready
            async with asyncio.timeout(15):
                await first.stop()
                await broker.opened(2)
            assert leader(broker)[0] > epoch
            assert leader(broker)[1].address == address
            assert (await broker.announce(PLAIN, [SERVICE])).policies


async def test_a_leader_that_dies_is_replaced(broker: FakeBroker):
    async with RunningScheduler(broker.address, **LEASE) as first:
        await first.ready
        async with RunningScheduler(broker.address, **LEASE) as second, asyncio.timeout(PATIENCE_S):
            address = await second.ready
            await first.kill()
            await broker.opened(2)
            assert leader(broker)[1].address == address
            decision = await broker.announce(PLAIN, [SERVICE])
            assert decision.policies


async def test_a_leader_that_is_not_heard_of_is_fenced_when_it_is_again(broker: FakeBroker):
    async with RunningScheduler(broker.address, **LEASE) as first, asyncio.timeout(60):
        leading = await first.ready
        async with RunningScheduler(broker.address, **LEASE) as second:
            await second.ready
            old, _ = leader(broker)
            broker.renewing.clear()
            await broker.opened(2)
            new, told = leader(broker)
            assert new > old
            assert told.address == await second.ready
            # The lease of the second one is not renewed either, but the first one may not take the
            # lead by that: it still believes that it leads, and asks in vain.
            broker.renewing.set()
            await broker.refused.wait()
            assert broker.fenced[0] == "PutEntry"
            assert (await broker.announce(PLAIN, [SERVICE])).policies
            assert (await refusal(leading)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_broker_with_other_data_is_led_again(broker: FakeBroker):
    async with RunningScheduler(broker.address, **LEASE) as scheduler, asyncio.timeout(PATIENCE_S):
        address = await scheduler.ready
        await broker.stop()
        broker.state = State()
        await broker.start()
        # The lead is taken anew, since the broker knows nothing of the epoch of before.
        await broker.opened(2)
        assert leader(broker)[1].address == address
        assert (await broker.announce(PLAIN, [SERVICE])).policies
