"""Client and worker against the real broker and scheduler."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from sdk.python.tests.contracts import shop
from sdk.python.tests.shops import orders, receipt, serve, serve_sync, stub_of

import plait
from plait import errors
from plait.testing import Mesh


@pytest.fixture
async def client(plait_mesh: Mesh) -> AsyncIterator[plait.Client]:
    async with plait_mesh.connect() as opened:
        yield opened


async def test_call_and_submit(client):
    async with serve(client):
        stub = stub_of(client)
        assert (await stub.Charge(shop.ChargeRequest(order_id="1"))).receipt_id == "r-1"
        task = await client.submit(stub.Charge, shop.ChargeRequest(order_id="2"))
        assert (await task.result()).receipt_id == "r-2"
        assert await task.state() is plait.TaskState.SUCCEEDED
        assert (await client.task(stub.Charge, task.id).result()).receipt_id == "r-2"


async def test_a_program_declares_a_schedule(client):
    stub = stub_of(client)
    request = shop.ChargeRequest(order_id="1")
    naive = datetime.now(UTC).replace(tzinfo=None)
    await client.schedule("charge-nightly", stub.Charge, request, every=3600)
    entry = await client.schedule(
        "charge-nightly",
        stub.Charge,
        request,
        cron="0 4 * * *",
        timezone="Asia/Tokyo",
        jitter=timedelta(0),
        overlap="buffer_one",
        missed="skip",
        catch_up=3600,
        priority=7,
        end=datetime(2999, 1, 1, tzinfo=UTC),
    )
    assert entry.schedule.cron == "0 4 * * *"
    assert entry.schedule.request == request.SerializeToString()
    assert (entry.schedule.overlap, entry.schedule.missed) == (3, 2)
    assert (entry.schedule.catch_up_window.seconds, entry.schedule.priority) == (3600, 7)
    (upcoming,) = entry.status.next_times
    assert upcoming.ToDatetime().hour == 19
    with pytest.raises(ValueError, match="no time zone"):
        await client.schedule("x", stub.Charge, request, every=1, start=naive)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.schedule("x", stub.Charge, request, cron="61 * * * *")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "schedule.cron" in str(errors.detail(caught.value, BadRequest))


async def test_bulk(client):
    async with serve(client):
        stub = stub_of(client)
        got = [each.receipt_id async for each in client.call_many(stub.Charge, orders(5000))]
    assert got == [f"r-{number}" for number in range(5000)]


async def test_a_failed_attempt_is_run_again(client):
    attempts = []

    async def charge(request: Any, context: Any) -> Any:
        here = plait.attempt()
        attempts.append((here.number, here.fencing_token, here.idempotency_key))
        if here.number < 3:
            raise RuntimeError("not yet")
        return receipt(request)

    async with serve(client, charge):
        answer = await stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
    assert answer.receipt_id == "r-1"
    assert [number for number, _, _ in attempts] == [1, 2, 3]
    tokens = [token for _, token, _ in attempts]
    assert tokens == sorted(set(tokens))
    assert len({key for _, _, key in attempts}) == 1


async def test_the_last_failure_is_the_callers(client):
    async def charge(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such order")

    async with serve(client, charge):
        with pytest.raises(grpc.aio.AioRpcError, match="no such order") as caught:
            await stub_of(client).Charge(shop.ChargeRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_equal_keys_are_one_task_and_another_request_is_refused(client):
    ran = []

    async def charge(request: Any, context: Any) -> Any:
        ran.append(request.order_id)
        return receipt(request)

    async with serve(client, charge):
        stub = stub_of(client)
        first, second = [
            await client.submit(stub.Post, shop.PostRequest(entry={"id": "e-1"}, account=1))
            for _ in range(2)
        ]
        assert first.id == second.id
        assert await first.result() == await second.result()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Post(shop.PostRequest(entry={"id": "e-1"}, account=2))
    assert errors.reason(caught.value) == errors.Reason.DUPLICATE_KEY_CONFLICT
    assert errors.metadata(caught.value)["task"] == first.id


async def test_cancel_reaches_the_handler(client):
    started, ended = asyncio.Event(), asyncio.Event()

    async def charge(request: Any, context: Any) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serve(client, charge):
        task = await client.submit(stub_of(client).Charge, shop.ChargeRequest())
        await started.wait()
        assert await task.cancel("enough") is plait.TaskState.CANCELLED
        await ended.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await task.result()
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert errors.reason(caught.value) == errors.Reason.TASK_CANCELLED


async def test_a_deadline_expires_the_task(client):
    task = await client.submit(
        stub_of(client).Post, shop.PostRequest(entry={"id": "x"}), deadline=0.05
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await task.result()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert errors.reason(caught.value) == errors.Reason.TASK_EXPIRED


async def test_watch_shows_progress_to_the_end(client):
    go_on = asyncio.Event()

    async def charge(request: Any, context: Any) -> Any:
        plait.attempt().progress(0.5, "half")
        await go_on.wait()
        return receipt(request)

    seen = []
    async with serve(client, charge):
        task = await client.submit(stub_of(client).Charge, shop.ChargeRequest())
        async for snapshot in task.watch():
            seen.append(snapshot)
            if snapshot.fraction == 0.5:
                go_on.set()
    assert seen[-1].state is plait.TaskState.SUCCEEDED
    assert seen[-1].state.final
    assert any((each.fraction, each.message) == (0.5, "half") for each in seen)


async def test_plain_functions(client):
    def charge(request: Any, context: Any) -> Any:
        return receipt(request)

    async with serve_sync(client, charge):
        stub = stub_of(client)
        got = [each.receipt_id async for each in client.call_many(stub.Charge, orders(500))]
    assert got == [f"r-{number}" for number in range(500)]


async def test_a_task_that_is_not_there(client):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.task(stub_of(client).Charge, "t00000000ffffffff").result()
    assert errors.reason(caught.value) == errors.Reason.TASK_NOT_FOUND
