"""Idempotency and ordering keys."""

import asyncio
from collections import defaultdict

import grpc
import pytest

import plait
from plait import errors
from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller
from tests.support.requests import duration, entry
from tests.support.waiting import reaches


async def test_the_same_key_answers_with_the_first_task(caller: Caller, name: str):
    first = await caller.plait.submit(caller.echo.Append, entry(name, 1))
    again = await caller.plait.submit(caller.echo.Append, entry(name, 1))
    assert again.id == first.id
    assert (await first.result()).length == 1
    # Also when it is done, and by a call that waits.
    third = await caller.plait.submit(caller.echo.Append, entry(name, 1))
    assert third.id == first.id
    assert (await caller.echo.Append(entry(name, 1), timeout=20)).length == 1


async def test_the_same_key_with_another_payload_is_refused(caller: Caller, name: str):
    first = await caller.plait.submit(caller.echo.Append, entry(name, 1))
    other = pb.AppendRequest(account=name, entry=pb.Entry(id=f"{name}/1", number=2))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.plait.submit(caller.echo.Append, other)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert errors.reason(refused.value) == "DUPLICATE_KEY_CONFLICT"
    assert errors.metadata(refused.value)["task"] == first.id
    assert (await first.result()).length == 1


async def test_a_key_that_the_policy_asks_for_must_be_there(caller: Caller, name: str):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.plait.submit(caller.echo.Append, pb.AppendRequest(account=name))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.reason(refused.value) == "KEY_MISSING"


async def test_a_key_given_at_call_time_wins(caller: Caller, name: str):
    first = await caller.plait.submit(caller.echo.Append, entry(name, 1), key=f"{name}/mine")
    second = await caller.plait.submit(caller.echo.Append, entry(name, 1), key=f"{name}/yours")
    assert first.id != second.id
    assert (await caller.get(first.id)).idempotency_key == f"{name}/mine"


async def test_one_account_is_served_one_at_a_time_in_order(caller: Caller, name: str):
    accounts = [f"{name}-{number}" for number in range(10)]
    requests = [entry(account, number) for number in range(1, 21) for account in accounts]
    answers = await asyncio.gather(*(caller.echo.Append(each, timeout=30) for each in requests))
    # The line of an account grew by one with each entry, in the order of submission.
    lines: defaultdict[str, list[int]] = defaultdict(list)
    for request, answer in zip(requests, answers, strict=True):
        lines[request.account].append(answer.length)
    assert dict(lines) == {account: list(range(1, 21)) for account in accounts}
    tasks = await caller.list(f'queue = "echo.append" AND ordering_key = "{accounts[0]}"')
    assert [task.idempotency_key for task in tasks] == [
        f"{accounts[0]}/{number}" for number in range(20, 0, -1)
    ]


async def test_a_retry_holds_its_own_line_only(caller: Caller, name: str):
    """By call-time ordering keys, since only Fail fails."""
    failing = pb.FailRequest(code=14, message=name, failures=1, retry_delay=duration(1))
    submit = caller.plait.submit
    held = await submit(caller.echo.Fail, failing, ordering_key=f"{name}-a")
    await reaches(held, "BACKOFF")
    behind = await submit(caller.echo.Fail, pb.FailRequest(message="b"), ordering_key=f"{name}-a")
    beside = await submit(caller.echo.Fail, pb.FailRequest(message="c"), ordering_key=f"{name}-b")
    async with asyncio.timeout(20):
        assert (await beside.result()).attempt == 1
        assert await held.state() is plait.TaskState.BACKOFF
        assert await behind.state() is plait.TaskState.READY
        assert (await held.result()).attempt == 2
        assert (await behind.result()).attempt == 1
    first, second = [await caller.get(task.id, full=True) for task in (held, behind)]
    started = next(e for e in second.events if e.state == task_pb2.TASK_STATE_RUNNING)
    assert first.end_time.ToNanoseconds() <= started.time.ToNanoseconds()
