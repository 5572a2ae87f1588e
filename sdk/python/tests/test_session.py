"""The submit stream: batches, resumption, back-pressure, and what callers see of them."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from sdk.python.tests.contracts import shop
from sdk.python.tests.pocket_broker import PocketBroker
from sdk.python.tests.shops import orders, serve, stub_of

import plait
from plait import errors
from plait._wire import RECONNECT_MIN_S
from plait.v1 import contract_service_pb2 as contract

POST = "/shop.v1.OrderService/Post"


async def test_a_call_waits_for_its_result(client):
    async with serve(client):
        call = stub_of(client).Charge(shop.ChargeRequest(order_id="7"))
        assert (await call).receipt_id == "r-7"
        assert await call.code() is grpc.StatusCode.OK
        assert dict(await call.initial_metadata()) == {"plait-task-id": "t0000000000000001"}
        assert call.done()


async def test_submit_answers_before_the_result(client, pocket):
    task = await client.submit(stub_of(client).Charge, shop.ChargeRequest(order_id="7"))
    assert task.id == "t0000000000000001"
    assert pocket.tasks[1].result is None
    async with serve(client):
        assert (await task.result()).receipt_id == "r-7"
        assert (await task.result()).receipt_id == "r-7"
    assert not getattr(pocket.frames[0], "await")


async def test_a_handle_by_id(client):
    stub = stub_of(client)
    async with serve(client):
        first = await client.submit(stub.Charge, shop.ChargeRequest(order_id="7"))
        assert (await client.task(stub.Charge, first.id).result()).receipt_id == "r-7"
    with pytest.raises(ValueError, match="no task id"):
        client.task(stub.Charge, "7")


async def test_a_burst_travels_in_few_frames(client, pocket):
    stub = stub_of(client)
    async with serve(client):
        await stub.Charge(shop.ChargeRequest())
        before = len(pocket.frames)
        calls = [stub.Charge(each) for each in orders(1000)]
        answers = [await each for each in calls]
    assert [each.receipt_id for each in answers] == [f"r-{number}" for number in range(1000)]
    frames = pocket.frames[before:]
    assert sum(len(each.tasks.payloads) for each in frames) == 1000
    assert len(frames) <= 8
    assert max(len(each.tasks.payloads) for each in frames) == 256


async def test_a_frame_is_bounded_in_bytes(client, pocket):
    stub = stub_of(client)
    large = shop.ChargeRequest(order_id="x" * 300_000)
    async with serve(client):
        await asyncio.gather(*(stub.Charge(large) for _ in range(9)))
    assert all(len(each.tasks.payloads) <= 3 for each in pocket.frames)


async def test_metadata_counts_among_the_bytes_of_a_frame(client, pocket):
    stub = stub_of(client)

    async def call(number: int) -> None:
        # Each its own: what tasks have in common is sent once.
        await stub.Charge(shop.ChargeRequest(), metadata=[("n", f"{number:016000}")])

    async with serve(client):
        await asyncio.gather(*(call(number) for number in range(200)))
    assert sum(len(each.tasks.payloads) for each in pocket.frames) == 200
    assert max(each.ByteSize() for each in pocket.frames) < 1.1 * (1 << 20)


async def test_a_lost_acknowledgement_submits_nothing_twice(client, pocket):
    stub = stub_of(client)
    async with serve(client):
        await stub.Charge(shop.ChargeRequest(order_id="first"))
        pocket.lose_next_acceptance = True
        answers = await asyncio.gather(*(stub.Charge(each) for each in orders(3)))
    assert [each.receipt_id for each in answers] == ["r-0", "r-1", "r-2"]
    assert len(pocket.tasks) == 4
    assert len(pocket.sessions) == 1


async def test_results_are_awaited_again_on_a_new_stream(client, pocket):
    stub = stub_of(client)
    task = await client.submit(stub.Charge, shop.ChargeRequest(order_id="1"))
    waiting = [asyncio.ensure_future(task.result()), stub.Charge(shop.ChargeRequest(order_id="2"))]
    await pocket.until(lambda: len(pocket.tasks) == 2 and len(pocket.awaits) == 1)
    pocket.cut_submitters()
    await pocket.until(lambda: sorted(pocket.awaits[-1].tasks) == [1, 2])
    async with serve(client):
        assert [(await each).receipt_id for each in waiting] == ["r-1", "r-2"]


async def test_a_broker_that_is_away_is_waited_for(client, pocket):
    stub = stub_of(client)
    async with serve(client):
        await stub.Charge(shop.ChargeRequest())
        await pocket.stop()
        call = stub.Charge(shop.ChargeRequest(order_id="9"))
        await pocket.start()
        assert (await call).receipt_id == "r-9"


async def test_a_wiped_broker_gets_a_new_session_and_the_contract_again(client, pocket):
    stub = stub_of(client)
    for each in orders(3):
        await client.submit(stub.Charge, each)
    assert len(pocket.sessions) == 1
    pocket.sessions.clear()
    pocket.methods.clear()
    pocket.cut_submitters()
    task = await client.submit(stub.Charge, shop.ChargeRequest(order_id="new"))
    async with serve(client):
        assert (await task.result()).receipt_id == "r-new"
    assert len(pocket.announced) == 3  # the first submission, the one after, the worker


async def test_back_pressure_delays_and_keeps_the_order(client, pocket):
    stub = stub_of(client)
    await client.submit(stub.Charge, shop.ChargeRequest(order_id="first"))
    pocket.refuse_next = [20, 5]
    tasks = await asyncio.gather(*(client.submit(stub.Charge, each) for each in orders(700)))
    assert not pocket.refuse_next
    ids = [each.id for each in tasks]
    assert ids == sorted(ids)
    assert len(pocket.tasks) == 701
    sequences = [each.sequence for each in pocket.frames]
    assert sequences.count(2) == 3


async def test_keys_come_from_the_request(client, pocket):
    path = contract.KeyPath(path="entry.id", numbers=[1, 1], kind=contract.KEY_KIND_STRING)
    account = contract.KeyPath(path="account", numbers=[2], kind=contract.KEY_KIND_UINT)
    pocket.policies[POST] = contract.MethodInfo(
        method=POST, queue="q", idempotency_key=path, ordering_key=account
    )
    stub = stub_of(client)
    request = shop.PostRequest(entry={"id": "e-1"}, account=7)
    # The first one is read from its bytes, since its method is not resolved yet.
    for _ in range(2):
        await client.submit(stub.Post, request)
    with plait.options(key="mine", ordering_key="8"):
        await client.submit(stub.Post, request)
    keys = [(each.key, each.ordering_key) for each in pocket.tasks.values()]
    assert keys == [("e-1", "7"), ("e-1", "7"), ("mine", "8")]


async def test_a_missing_key_is_refused(client, pocket):
    path = contract.KeyPath(path="entry.id", numbers=[1, 1], kind=contract.KEY_KIND_STRING)
    pocket.policies[POST] = contract.MethodInfo(method=POST, queue="q", idempotency_key=path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub_of(client).Post(shop.PostRequest(account=7))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(caught.value) == errors.Reason.KEY_MISSING
    assert errors.metadata(caught.value) == {"method": POST, "key": "idempotency"}
    assert not pocket.tasks


async def test_a_task_waits_for_a_time(client, pocket):
    stub = stub_of(client)
    now = datetime.now(UTC)
    for at in (now + timedelta(hours=1), now - timedelta(hours=1)):
        await client.submit(stub.Charge, shop.ChargeRequest(), delay=at)
    later, past = (each.options.delay.ToMilliseconds() for each in pocket.tasks.values())
    assert 3_500_000 < later <= 3_600_000
    assert past == 0
    with pytest.raises(ValueError, match="no time zone"):
        await client.submit(stub.Charge, shop.ChargeRequest(), delay=now.replace(tzinfo=None))


async def test_options_travel(client, pocket):
    stub = stub_of(client)
    with plait.options(priority=9, metadata=[("tenant", "a")]):
        await client.submit(stub.Charge, shop.ChargeRequest(), delay=1.5, key="k")
        call = stub.Charge(
            shop.ChargeRequest(), timeout=60, metadata=(("Note", "b"), ("raw-bin", b"\xff"))
        )
        await call.wait_for_connection()
    first, second = (each.options for each in pocket.tasks.values())
    assert (first.priority, first.delay.ToMilliseconds()) == (9, 1500)
    assert [(each.key, each.value) for each in first.metadata] == [("tenant", b"a")]
    assert [(each.key, each.value) for each in second.metadata] == [
        ("tenant", b"a"),
        ("note", b"b"),
        ("raw-bin", b"\xff"),
    ]
    assert second.deadline.ToSeconds() == 60
    assert not first.HasField("deadline")
    assert [each.key for each in pocket.tasks.values()] == ["k", ""]


async def test_metadata_of_options_holds_for_every_call(client, pocket):
    stub = stub_of(client)
    with plait.options(metadata=(pair for pair in [("tenant", "a")])):
        for each in orders(2):
            await client.submit(stub.Charge, each)
    assert [len(each.options.metadata) for each in pocket.tasks.values()] == [1, 1]


async def expires(pocket: PocketBroker, call: Callable[[float], Awaitable[Any]]) -> float:
    """Has a call expire after its task was submitted. Answers with the seconds that it was given:
    more where a busy machine spent the first ones on the way to the broker."""
    for seconds in (0.05, 0.5, 5.0, 20.0):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(seconds)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if pocket.tasks:
            return seconds
    raise AssertionError("no task was submitted")


async def test_a_timeout_ends_the_wait_and_not_the_task(client, pocket):
    stub = stub_of(client)
    await expires(pocket, lambda seconds: stub.Charge(shop.ChargeRequest(), timeout=seconds))
    await pocket.until(lambda: any(1 in each.forget for each in pocket.awaits))
    assert pocket.tasks[1].result is None


async def test_a_limit_bounds_the_calls_inside(client, pocket):
    stub = stub_of(client)

    async def call(seconds: float) -> None:
        with plait.deadline.limit(seconds):
            await stub.Charge(shop.ChargeRequest(), timeout=60)

    seconds = await expires(pocket, call)
    assert pocket.tasks[1].options.deadline.ToMilliseconds() <= seconds * 1000


async def test_cancelling_a_call_forgets_its_result(client, pocket):
    call = stub_of(client).Charge(shop.ChargeRequest())
    await call.wait_for_connection()
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED
    await pocket.until(lambda: any(1 in each.forget for each in pocket.awaits))


async def test_giving_up_a_result_forgets_it_and_it_can_be_wanted_again(client, pocket):
    task = await client.submit(stub_of(client).Charge, shop.ChargeRequest(order_id="1"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await task.result()
    await pocket.until(lambda: any(1 in each.forget for each in pocket.awaits))
    async with serve(client):
        assert (await task.result()).receipt_id == "r-1"


async def test_a_request_over_the_limit_is_refused_at_once(client, pocket):
    stub = stub_of(client)
    await client.submit(stub.Charge, shop.ChargeRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Charge(shop.ChargeRequest(order_id="x" * (1 << 20)))
    assert errors.reason(caught.value) == errors.Reason.TOO_LARGE
    assert errors.metadata(caught.value)["limit"] == str(1 << 20)
    assert len(pocket.tasks) == 1


async def test_a_frame_that_is_refused_for_good_fails_its_callers_only(client, pocket):
    stub = stub_of(client)
    await client.submit(stub.Charge, shop.ChargeRequest())
    pocket.refuse_next = [60_000]
    call = stub.Charge(shop.ChargeRequest())
    await pocket.until(lambda: not pocket.refuse_next)
    pocket.cut_submitters(grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with asyncio.timeout(10):
        await client.submit(stub.Charge, shop.ChargeRequest())


async def test_closing_ends_every_wait(pocket):
    async with plait.connect(pocket.address) as client:
        stub = stub_of(client)
        waiting = [stub.Charge(shop.ChargeRequest()) for _ in range(3)]
        await waiting[0].wait_for_connection()
    for call in waiting:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Charge(shop.ChargeRequest())


async def test_a_contract_that_nobody_decides_on_is_announced_again(client, pocket):
    unavailable = errors.new(
        grpc.StatusCode.UNAVAILABLE, errors.Reason.SCHEDULER_UNAVAILABLE, "nobody decides"
    )
    pocket.announcement_errors = [unavailable, unavailable]
    await client.submit(stub_of(client).Charge, shop.ChargeRequest())
    assert len(pocket.announced) == 3


async def test_a_refused_contract_is_the_callers_error(client, pocket):
    pocket.announcement_errors = [
        errors.new(
            grpc.StatusCode.INVALID_ARGUMENT, errors.Reason.POLICY_INVALID, "deadline: too short"
        )
    ]
    with pytest.raises(grpc.aio.AioRpcError, match="deadline: too short") as caught:
        await client.submit(stub_of(client).Charge, shop.ChargeRequest())
    assert errors.reason(caught.value) == errors.Reason.POLICY_INVALID
    # The next one asks again.
    await client.submit(stub_of(client).Charge, shop.ChargeRequest())


async def test_a_method_without_descriptor_is_unknown(client: plait.Client, pocket: PocketBroker):
    call: Any = client.channel().unary_unary("/nobody.v1.Service/Method")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert errors.reason(caught.value) == errors.Reason.METHOD_UNKNOWN


async def test_streaming_methods_are_refused_when_called(client):
    stub = shop.FeedServiceStub(client.channel())
    with pytest.raises(grpc.aio.UsageError, match="streams"):
        stub.Follow(shop.ChargeRequest())


async def test_a_stream_that_was_welcome_is_opened_again_at_once(client, pocket, monkeypatch):
    """A broker that is killed again and again is there again each time; the pauses do not grow."""
    bounds = []

    def uniform(low: float, high: float) -> float:
        bounds.append(high)
        return low

    monkeypatch.setattr(random, "uniform", uniform)
    task = await client.submit(stub_of(client).Charge, shop.ChargeRequest(order_id="1"))
    waiting = asyncio.ensure_future(task.result())
    for count in range(1, 6):
        await pocket.until(lambda count=count: len(pocket.awaits) == count)
        pocket.cut_submitters()
    await pocket.until(lambda: len(pocket.awaits) == 6)
    assert set(bounds) == {RECONNECT_MIN_S}
    async with serve(client):
        assert (await waiting).receipt_id == "r-1"
