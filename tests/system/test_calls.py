"""Calls and submissions through the user's own stub, and what a handler sees of them."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import plait
from plait import errors
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.requests import duration

RETRIED = {2, 4, 8, 10, 13, 14}
"""Codes that a task is retried for: SEMANTICS' table."""


async def test_a_call_answers(caller: Caller):
    answer = await caller.echo.Echo(pb.EchoRequest(payload=b"\x00\xff"), timeout=20)
    assert answer.payload == b"\x00\xff"


async def test_an_empty_and_a_large_payload_go_through(caller: Caller):
    large = bytes(range(256)) * 4000
    answers = [await caller.echo.Echo(pb.EchoRequest(payload=p), timeout=20) for p in (b"", large)]
    assert [answer.payload for answer in answers] == [b"", large]


async def test_a_payload_over_the_limit_is_refused(caller: Caller):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.echo.Echo(pb.EchoRequest(payload=b"x" * (1 << 20)), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == "TOO_LARGE"


async def test_a_submitted_task_has_its_result(caller: Caller):
    task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"later"))
    assert (await task.result()).payload == b"later"
    assert (await task.result()).payload == b"later"
    assert await task.state() is plait.TaskState.SUCCEEDED


async def test_another_client_has_the_result_by_its_id(mesh: Mesh, caller: Caller):
    task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"shared"))
    async with mesh.caller() as other:
        found = other.plait.task(other.echo.Echo, task.id)
        async with asyncio.timeout(20):
            assert (await found.result()).payload == b"shared"


async def test_thousands_answer_in_the_order_of_their_requests(caller: Caller):
    payloads = [f"{number}".encode() for number in range(3000)]
    requests = (pb.EchoRequest(payload=payload) for payload in payloads)
    answers = [
        answer.payload async for answer in caller.plait.call_many(caller.echo.Echo, requests)
    ]
    assert answers == payloads


async def test_the_handler_sees_deadline_metadata_and_attempt(caller: Caller):
    call = caller.echo.Inspect(
        pb.InspectRequest(), timeout=25, metadata=(("x-who", "a tester"), ("x-who-else", "b"))
    )
    seen = await call
    assert 20 < seen.time_remaining.ToTimedelta().total_seconds() <= 25
    assert seen.attempt == 1
    assert seen.fencing_token > 0
    assert seen.idempotency_key == seen.task
    assert seen.metadata["x-who"] == "a tester"
    assert seen.metadata["x-who-else"] == "b"
    assert seen.metadata["plait-task-id"] == seen.task
    assert seen.metadata["plait-attempt"] == "1"
    assert seen.metadata["plait-fencing-token"] == str(seen.fencing_token)
    assert seen.metadata["plait-idempotency-key"] == seen.task
    answered = dict(await call.initial_metadata() or ())
    assert answered["plait-task-id"] == seen.task


async def test_the_handlers_deadline_is_the_attempts_where_that_is_shorter(caller: Caller):
    task = await caller.plait.submit(caller.echo.Inspect, pb.InspectRequest())
    seen = await task.result()
    assert 25 < seen.time_remaining.ToTimedelta().total_seconds() <= 30
    assert seen.task == task.id


async def test_the_handler_sees_a_key_that_was_given(caller: Caller, name: str):
    with plait.options(key=name):
        seen = await caller.echo.Inspect(pb.InspectRequest(), timeout=20)
    assert seen.idempotency_key == name
    assert seen.metadata["plait-idempotency-key"] == name


@pytest.mark.parametrize("code", range(1, 17))
async def test_a_failure_arrives_byte_for_byte(caller: Caller, code: int):
    delay = duration(0.001)
    request = pb.FailRequest(
        code=code, message="naïve: 50% …\n", failures=99, violation="order.id", trailer="ledger 7"
    )
    details: list[Any] = [
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field="order.id", description="as told")
            ]
        )
    ]
    if code in RETRIED:
        # So that all attempts are through at once.
        request.retry_delay.CopyFrom(delay)
        details.insert(0, error_details_pb2.RetryInfo(retry_delay=delay))
    expected = status_pb2.Status(code=code, message=request.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        expected.details.append(packed)

    task = await caller.plait.submit(caller.echo.Fail, request)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await task.result()

    assert failed.value.code().value[0] == code
    assert failed.value.details() == request.message
    trailers = dict(failed.value.trailing_metadata())
    assert trailers == {
        "x-failed-by": "ledger 7",
        "grpc-status-details-bin": expected.SerializeToString(deterministic=True),
    }
    shown = await caller.get(task.id)
    assert shown.error == expected
    assert shown.attempt == (5 if code in RETRIED else 1)
