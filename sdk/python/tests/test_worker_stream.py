"""The worker's stream: receipts, heartbeats, leases over a broken stream, drain."""

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from sdk.python.tests.contracts import shop
from sdk.python.tests.pocket_broker import PocketBroker
from sdk.python.tests.shops import orders, receipt, serve, stub_of

import plait
from plait import _slots, errors


class Gate:
    """A handler that waits until it is let through."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, request, context):
        self.started.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return receipt(request)


async def test_hello(client, pocket):
    async with serve(client, name="shop", version="1.2", concurrency=7):
        hello = pocket.hellos[0]
    assert (hello.name, hello.version, hello.slots) == ("shop", "1.2", 7)
    assert hello.client == f"plait-python/{plait.__version__}"
    assert not hello.held
    # The worker announced before it attached, without what everybody has.
    files = pocket.announced[0].descriptor_set
    assert b"shop/v1/shop.proto" in files
    assert b"plait/v1/options.proto" in files
    assert b"google/protobuf/descriptor.proto\x12\x0fgoogle.protobuf" not in files


async def test_a_waiting_handler_is_received_at_once(client, pocket):
    gate = Gate()
    async with serve(client, gate):
        call = stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
        await pocket.until(lambda: pocket.workers[0].accepted == 1)
        assert not pocket.outcomes
        gate.open.set()
        await call


async def test_heartbeats_are_sent_while_nothing_else_is(client, pocket):
    gate = Gate()
    async with serve(client, gate, concurrency=1):
        calls = [stub_of(client).Charge(each) for each in orders(2)]
        await pocket.until(lambda: any(each.HasField("heartbeat") for each in said(pocket)))
        beat = next(each.heartbeat for each in said(pocket) if each.HasField("heartbeat"))
        assert (beat.running, beat.waiting) == (1, 1)
        gate.open.set()
        await asyncio.gather(*calls)


def said(pocket: PocketBroker) -> list[Any]:
    return [each for worker in pocket.workers for each in worker.said]


async def test_a_silent_broker_is_left(client, pocket):
    pocket.speaks = False
    async with serve(client):
        await pocket.until(lambda: len(pocket.hellos) == 2)
        pocket.speaks = True
        await stub_of(client).Charge(shop.ChargeRequest())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_lease_outlives_a_broken_stream(client, pocket, code):
    gate = Gate()
    async with serve(client, gate):
        call = stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
        await gate.started.wait()
        pocket.cut_workers(code)
        await pocket.until(lambda: len(pocket.hellos) == 2)
        assert [(each.task, each.token) for each in pocket.hellos[1].held] == [(1, 1)]
        gate.open.set()
        assert (await call).receipt_id == "r-1"
    assert gate.cancelled == 0


async def test_a_lost_lease_is_stopped(client, pocket):
    gate = Gate()
    async with serve(client, gate):
        await client.submit(stub_of(client).Charge, shop.ChargeRequest(order_id="1"))
        await gate.started.wait()
        pocket.take_lease(1)
        pocket.cut_workers()
        await pocket.until(lambda: len(pocket.workers) == 1 and len(pocket.hellos) == 2)
    assert gate.cancelled == 1
    assert not pocket.outcomes


async def test_failures_count_among_the_bytes_of_a_frame(client, pocket, monkeypatch):
    # All outcomes are there before the first is sent.
    monkeypatch.setattr(_slots, "SLICE_S", 60.0)

    async def charge(request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "x" * 8_000)

    stub = stub_of(client)
    tasks = [task async for task in client.submit_many(stub.Charge, orders(200))]
    async with serve(client, charge):
        ended = await asyncio.gather(*(task.result() for task in tasks), return_exceptions=True)
    assert all(isinstance(each, grpc.aio.AioRpcError) for each in ended)
    assert max(each.ByteSize() for each in pocket.outcomes) < 1.1 * (1 << 20)


async def test_outcomes_that_were_not_settled_are_sent_again(client, pocket):
    pocket.settles = False
    async with serve(client):
        stub = stub_of(client)
        await asyncio.gather(*(stub.Charge(each) for each in orders(3)))
        sent = sorted(task for frame in pocket.outcomes for task in frame.tasks)
        assert sent == [1, 2, 3]
        pocket.take_lease(2)
        pocket.outcomes.clear()
        pocket.settles = True
        pocket.cut_workers()
        await pocket.until(lambda: bool(pocket.outcomes))
        assert sorted(each.task for each in pocket.hellos[1].held) == [1, 2, 3]
        assert [list(each.tasks) for each in pocket.outcomes] == [[1, 3]]
        assert [each.sequence for each in pocket.outcomes] == [1]


async def test_a_broker_that_will_not_have_the_worker_ends_it(client, pocket):
    pocket.announcement_errors = [
        errors.new(
            grpc.StatusCode.FAILED_PRECONDITION,
            errors.Reason.CONTRACT_INCOMPATIBLE,
            "field 3 has another type",
        )
    ]
    with pytest.raises(grpc.aio.AioRpcError, match="field 3 has another type"):
        await serve(client).run()


async def test_drain_finishes_what_runs_and_hands_back_the_rest(client, pocket):
    gate = Gate()
    worker = serve(client, gate, concurrency=1)
    running = asyncio.create_task(worker.run())
    tasks = [task async for task in client.submit_many(stub_of(client).Charge, orders(3))]
    await gate.started.wait()
    await pocket.until(lambda: len(pocket.workers[0].held) == 2)
    worker.stop()
    await pocket.until(lambda: sorted(pocket.ready) == [2, 3])
    assert any(each.HasField("drain") for each in said(pocket))
    gate.open.set()
    await running
    assert (await tasks[0].result()).receipt_id == "r-0"
    assert [list(each.tasks) for each in pocket.outcomes] == [[1]]
    assert gate.cancelled == 0
    await pocket.until(lambda: not pocket.workers)


async def test_after_the_grace_handlers_are_cancelled(client, pocket):
    gate = Gate()
    worker = serve(client, gate, grace=0.02)
    running = asyncio.create_task(worker.run())
    await client.submit(stub_of(client).Charge, shop.ChargeRequest())
    await gate.started.wait()
    worker.stop()
    await running
    assert gate.cancelled == 1
    assert not pocket.outcomes


async def test_two_signals_mean_now(client):
    gate = Gate()
    running = asyncio.create_task(serve(client, gate).run())
    await client.submit(stub_of(client).Charge, shop.ChargeRequest())
    await gate.started.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await running
    assert gate.cancelled == 1


async def test_a_cancelled_run_cancels_its_handlers(client):
    gate = Gate()
    running = asyncio.create_task(serve(client, gate).run())
    await client.submit(stub_of(client).Charge, shop.ChargeRequest())
    await gate.started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gate.cancelled == 1


async def test_a_worker_runs_once_and_serves_something(client):
    with pytest.raises(RuntimeError, match="nothing is served"):
        await client.worker().run()
    worker = serve(client)
    async with worker:
        with pytest.raises(RuntimeError, match="runs once"):
            await worker.run()


async def test_what_is_handed_back_is_told_before_the_goodbye(client, pocket):
    gate = Gate()
    worker = serve(client, gate, concurrency=1, grace=0.0)
    running = asyncio.create_task(worker.run())
    async for _ in client.submit_many(stub_of(client).Charge, orders(2)):
        pass
    await gate.started.wait()
    await pocket.until(lambda: len(pocket.workers[0].held) == 2)
    worker.stop()
    await running
    assert list(pocket.ready) == [2]
