"""What a handler sees, and what its caller sees of it."""

import asyncio
import contextvars
import threading
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from sdk.python.tests.contracts import shop
from sdk.python.tests.shops import orders, receipt, serve, serve_sync, spin, stub_of

import plait
from plait import _slots, _statuses, errors


async def call_error(client: plait.Client, **said: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub_of(client).Charge(shop.ChargeRequest(order_id="1"), **said)
    return caught.value


async def test_the_context_is_that_of_a_grpc_server(client, pocket):
    seen: dict[str, Any] = {}

    async def charge(request, context):
        metadata = context.invocation_metadata()
        seen["metadata"] = dict(metadata)
        seen["left"] = context.time_remaining()
        seen["peer"] = context.peer()
        seen["cancelled"] = context.cancelled()
        context.add_done_callback(lambda ended: seen.update(ended=ended is context))
        return receipt(request)

    async with serve(client, charge):
        await stub_of(client).Charge(
            shop.ChargeRequest(order_id="1"), metadata=[("tenant", "a"), ("raw-bin", b"\xff")]
        )
    assert seen["metadata"] == {
        "tenant": "a",
        "raw-bin": b"\xff",
        "plait-task-id": "t0000000000000001",
        "plait-attempt": "1",
        "plait-fencing-token": "1",
        "plait-idempotency-key": "t0000000000000001",
    }
    assert 59 < seen["left"] <= 60
    assert seen["peer"] == pocket.address
    assert not seen["cancelled"]
    assert seen["ended"]


async def test_the_attempt(client):
    seen: dict[str, Any] = {}

    async def charge(request, context):
        here = plait.attempt()
        seen.update(
            number=here.number,
            task=here.task_id,
            key=here.idempotency_key,
            token=here.fencing_token,
            left=here.deadline - time.monotonic(),
            remaining=plait.deadline.remaining(),
        )
        with plait.deadline.limit(5):
            seen["limited"] = plait.deadline.remaining()
        return receipt(request)

    async with serve(client, charge):
        await client.submit(stub_of(client).Charge, shop.ChargeRequest(), key="k-1")
        await stub_of(client).Charge(shop.ChargeRequest())
    assert seen["number"] == 1
    assert seen["task"] == "t0000000000000002"
    assert seen["key"] == "t0000000000000002"
    assert seen["token"] == 1
    assert 59 < seen["left"] <= 60
    assert 59 < seen["remaining"] <= 60
    assert 4 < seen["limited"] <= 5


async def test_there_is_no_attempt_outside_a_handler():
    with pytest.raises(LookupError):
        plait.attempt()
    assert plait.deadline.remaining() is None


async def test_status_and_details_arrive_byte_for_byte(client):
    info = error_details_pb2.ErrorInfo(reason="NO_FUNDS", domain="shop", metadata={"x": "ž"})
    sent = status_pb2.Status(code=9, message="no funds — žádné")
    sent.details.add().Pack(info)

    async def charge(request, context):
        await context.abort_with_status(rpc_status.to_status(sent))

    async with serve(client, charge):
        error = await call_error(client)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "no funds — žádné"
    assert dict(error.trailing_metadata())[_statuses.DETAILS_KEY] == sent.SerializeToString()
    assert errors.detail(error, error_details_pb2.ErrorInfo) == info
    assert errors.reason(error) is None


@pytest.mark.parametrize("raised", [True, False])
async def test_a_code_that_was_set(client, raised):
    async def charge(request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("no such order")
        context.set_trailing_metadata((("hint", "look"), ("grpc-internal", "x")))
        if raised:
            raise RuntimeError("ignored")
        return receipt(request)

    async with serve(client, charge):
        error = await call_error(client)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such order")
    assert dict(error.trailing_metadata()) == {"hint": "look"}


async def test_an_uncaught_error_is_unknown_with_its_text(client):
    async def charge(request, context):
        raise ValueError("boom")

    async with serve(client, charge):
        error = await call_error(client)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert error.details() == "Unexpected <class 'ValueError'>: boom"


async def test_an_uncaught_grpc_error_goes_through(client):
    inner = errors.new(
        grpc.StatusCode.ALREADY_EXISTS, errors.Reason.DUPLICATE_KEY_CONFLICT, "twice"
    )

    async def charge(request, context):
        raise inner

    async with serve(client, charge):
        error = await call_error(client)
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert errors.reason(error) == errors.Reason.DUPLICATE_KEY_CONFLICT


async def test_bytes_that_are_no_message_are_internal(client):
    async with serve(client):
        call = client.channel().unary_unary("/shop.v1.OrderService/Charge")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff")
    assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("answer", [None, "a string"])
async def test_an_answer_of_another_type_is_internal(client, answer):
    async def charge(request, context):
        return answer

    async with serve(client, charge):
        assert (await call_error(client)).code() is grpc.StatusCode.INTERNAL


async def test_a_response_over_the_limit_fails_at_once(client, pocket):
    pocket.payload_bytes_max = 1000

    async def charge(request, context):
        return shop.ChargeResponse(receipt_id="x" * 1000)

    async with serve(client, charge):
        error = await call_error(client)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(error) == errors.Reason.TOO_LARGE
    assert errors.metadata(error)["field"] == "response"


async def test_a_stopped_handler_is_cancelled_and_not_reported(client, pocket):
    started, ended = asyncio.Event(), asyncio.Event()
    stopped = {}

    async def charge(request, context):
        if request.order_id != "1":
            return receipt(request)
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped["cancelled"] = context.cancelled()
            raise
        finally:
            ended.set()

    async with serve(client, charge, concurrency=1):
        await client.submit(stub_of(client).Charge, shop.ChargeRequest(order_id="1"))
        await started.wait()
        pocket.stop_attempt(1)
        await ended.wait()
        # Its slot is free again.
        assert (await stub_of(client).Charge(shop.ChargeRequest(order_id="2"))).receipt_id == "r-2"
    assert stopped["cancelled"]
    assert [list(each.tasks) for each in pocket.outcomes] == [[2]]


async def test_a_handler_that_swallows_its_cancellation_spoils_nothing(client, pocket):
    started = asyncio.Event()

    async def charge(request, context):
        if request.order_id == "1":
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return receipt(request)
        await asyncio.sleep(0)
        return receipt(request)

    async with serve(client, charge, concurrency=1):
        stub = stub_of(client)
        await client.submit(stub.Charge, shop.ChargeRequest(order_id="1"))
        await started.wait()
        pocket.stop_attempt(1)
        answers = await asyncio.gather(*(stub.Charge(each) for each in orders(5)[2:]))
    assert [each.receipt_id for each in answers] == ["r-2", "r-3", "r-4"]
    assert pocket.tasks[1].result is None


async def test_a_handler_that_cancels_its_own_task_spoils_no_other(client):
    async def charge(request, context):
        if request.order_id == "0":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return receipt(request)
        await asyncio.sleep(0)
        return receipt(request)

    async with serve(client, charge, concurrency=1):
        stub = stub_of(client)
        answers = await asyncio.gather(*(stub.Charge(each) for each in orders(4)))
    assert [each.receipt_id for each in answers] == ["r-0", "r-1", "r-2", "r-3"]


async def test_past_its_deadline_a_handler_is_cancelled_and_reported(client, pocket):
    pocket.timeout_ms = 30

    async def charge(request, context):
        await asyncio.Event().wait()

    async with serve(client, charge):
        error = await call_error(client)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert errors.reason(error) == errors.Reason.ATTEMPT_TIMED_OUT


async def test_an_attempt_that_waited_past_its_deadline_does_not_start(client, pocket):
    pocket.timeout_ms = 30
    started = []

    async def charge(request, context):
        started.append(request.order_id)
        spin(0.05)  # holds the only slot, and the loop
        return receipt(request)

    async with serve(client, charge, concurrency=1):
        calls = [stub_of(client).Charge(each) for each in orders(2)]
        assert (await calls[0]).receipt_id == "r-0"
        assert await calls[1].code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert started == ["0"]


async def test_timeouts_and_task_groups_work_from_the_first_step(client):
    async def charge(request, context):
        me = asyncio.current_task()
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        else:
            raise AssertionError("the timeout did not come")
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(_later(part)) for part in "ab"]
        with pytest.raises(ExceptionGroup):
            await _fail_in_a_group()
        assert asyncio.current_task() is me
        return shop.ChargeResponse(receipt_id="".join(part.result() for part in parts))

    async with serve(client, charge):
        stub = stub_of(client)
        answers = await asyncio.gather(*(stub.Charge(each) for each in orders(20)))
    assert {each.receipt_id for each in answers} == {"ab"}


async def _later(value: str) -> str:
    await asyncio.sleep(0)
    return value


async def _fail_in_a_group() -> None:
    async def fail() -> None:
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await asyncio.Event().wait()


async def test_context_variables_do_not_leak(client):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def charge(request, context):
        seen.append(variable.get())
        variable.set(request.order_id)
        if request.order_id == "3":
            await asyncio.sleep(0)
        assert variable.get() == request.order_id
        assert plait.attempt().task_id.endswith(str(int(request.order_id) + 1))
        return receipt(request)

    async with serve(client, charge):
        stub = stub_of(client)
        await asyncio.gather(*(stub.Charge(each) for each in orders(9)))
    assert seen == ["unset"] * 9


async def test_no_more_handlers_at_once_than_the_concurrency(client):
    running = most = 0

    async def charge(request, context):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return receipt(request)

    async with serve(client, charge, concurrency=5):
        stub = stub_of(client)
        await asyncio.gather(*(stub.Charge(each) for each in orders(60)))
    assert most == 5


async def test_handlers_that_do_not_wait_answer_in_one_frame(client, pocket, monkeypatch):
    # They must not be taken for slow where the machine is.
    monkeypatch.setattr(_slots, "SLICE_S", 60.0)
    stub = stub_of(client)
    tasks = [task async for task in client.submit_many(stub.Charge, orders(200))]
    async with serve(client):
        await asyncio.gather(*(task.result() for task in tasks))
    assert [len(each.tasks) for each in pocket.outcomes] == [200]


async def test_handlers_in_line_let_the_loop_live(client):
    ticks = 0

    async def charge(request, context):
        spin(0.002)
        return receipt(request)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    stub = stub_of(client)
    async with serve(client, charge):
        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(stub.Charge(each) for each in orders(50)))
        ticking.cancel()
    # 100 ms of work, and a turn at least every 5 ms.
    assert ticks >= 10


async def test_plain_functions_run_in_threads(client):
    main = threading.get_ident()
    barrier = threading.Barrier(2, timeout=10)

    def charge(request, context):
        barrier.wait()
        assert threading.get_ident() != main
        assert context.time_remaining() > 0
        return shop.ChargeResponse(receipt_id=plait.attempt().task_id)

    async with serve_sync(client, charge):
        stub = stub_of(client)
        answers = await asyncio.gather(*(stub.Charge(each) for each in orders(6)))
    assert len({each.receipt_id for each in answers}) == 6


async def test_a_plain_function_aborts(client):
    def charge(request, context):
        context.abort(grpc.StatusCode.OUT_OF_RANGE, "too much")

    async with serve_sync(client, charge):
        error = await call_error(client)
    assert (error.code(), error.details()) == (grpc.StatusCode.OUT_OF_RANGE, "too much")


async def test_progress_is_told(client, pocket):
    go_on = asyncio.Event()

    async def charge(request, context):
        plait.attempt().progress(0.25, "page 1/4")
        with pytest.raises(ValueError, match="share"):
            plait.attempt().progress(1.5)
        await go_on.wait()
        return receipt(request)

    def reports() -> list[Any]:
        return [
            (entry.task, entry.progress.fraction, entry.progress.message)
            for worker in pocket.workers
            for said in worker.said
            for entry in said.progress.entries
        ]

    async with serve(client, charge):
        call = stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
        await pocket.until(lambda: bool(reports()))
        go_on.set()
        await call
        assert reports() == [(1, 0.25, "page 1/4")]


async def test_a_method_that_streams_is_refused_at_registration(client):
    with pytest.raises(ValueError, match=r"shop.v1.FeedService/Follow streams"):
        client.worker().serve(shop.FeedServiceServicer(), shop.add_FeedServiceServicer_to_server)


async def test_a_servicer_without_methods_is_refused(client):
    with pytest.raises(ValueError, match="no method"):
        client.worker().serve(shop.OrderServiceServicer(), shop.add_OrderServiceServicer_to_server)


async def test_methods_left_to_the_base_class_are_not_served(client, pocket):
    async with serve(client):
        assert list(pocket.hellos[0].methods) == [
            "/shop.v1.OrderService/Charge",
            "/shop.v1.OrderService/Post",
        ]


async def test_progress_is_not_told_more_often_than_people_read(client, pocket):
    async def charge(request: Any, context: Any) -> Any:
        for number in range(200):
            plait.attempt().progress(number / 200)
            await asyncio.sleep(0)
        return receipt(request)

    async with serve(client, charge):
        await stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
        frames = [each for each in pocket.workers[0].said if each.HasField("progress")]
    assert len(frames) <= 3


async def test_a_timeout_that_is_over_sends_nothing(client, pocket):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub_of(client).Charge(shop.ChargeRequest(), timeout=0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not pocket.tasks
