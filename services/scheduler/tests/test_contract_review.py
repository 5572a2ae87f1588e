"""Contracts are reviewed as they are decided on, allowed for a reason, and their history kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeAlias

import grpc
import msgspec
import pytest

from plait import errors
from plait.control.v1 import contract_review_service_pb2 as pb
from plait.control.v1 import contract_review_service_pb2_grpc as pb_grpc
from plait.v1 import task_pb2
from plait_scheduler.broker.channel import open_channel
from plait_scheduler.broker.work import WorkInFlight
from plait_scheduler.contracts.records import (
    ALLOWANCE_MS,
    ALLOWANCE_PREFIX,
    HISTORY_MAX,
    RECORD_BYTES_MAX,
    RECORD_PREFIX,
    Allowance,
    ContractRecord,
    Decision,
)
from plait_scheduler.domain.change import Part
from plait_scheduler.domain.work import TASKS_MAX
from plait_scheduler.scheduler import now_ms
from services.scheduler.tests.contracts import MESSAGES, SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker, refusal_of
from services.scheduler.tests.running import RunningScheduler

PLACE = f"/{SERVICE}/Place"
PLAIN = orders_set()
OTHER_KEY = orders_set('ordering_key: "id"')
BROKEN = orders_set(messages=MESSAGES.replace("int64 number = 2", "string number = 2"))
SMALLER = orders_set(messages=MESSAGES.replace("int64 number = 2;", ""))
LOOK_SECONDS = 20.0
ALL = {PLACE: frozenset(Part)}

Stub: TypeAlias = "pb_grpc.ContractReviewServiceAsyncStub"


@pytest.fixture
async def reviews(scheduler: RunningScheduler) -> AsyncIterator[Stub]:
    async with await scheduler.channel() as channel:
        yield pb_grpc.ContractReviewServiceStub(channel)


def task(number: int, state: str = "READY", **fields: Any) -> task_pb2.Task:
    made = task_pb2.Task(
        id=f"t{number:05}", method=PLACE, state=task_pb2.TaskState.Value(f"TASK_STATE_{state}")
    )
    made.create_time.FromSeconds(1_700_000_000 + number)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


async def review(reviews: Stub, descriptor_set: bytes) -> pb.ReviewContractResponse:
    request = pb.ReviewContractRequest(descriptor_set=descriptor_set, services=[SERVICE])
    return await reviews.ReviewContract(request, timeout=20)


async def allow(reviews: Stub, digest: str, **other: str) -> None:
    said = {"reason": "the shop is closed", "allowed_by": "me@here", **other}
    request = pb.AllowContractRequest(digest=digest, services=[SERVICE], **said)
    await reviews.AllowContract(request, timeout=20)


async def decisions(reviews: Stub) -> list[pb.ContractDecision]:
    request = pb.ListContractDecisionsRequest(service=SERVICE)
    answer = await reviews.ListContractDecisions(request, timeout=20)
    return list(answer.decisions)


def put(broker: FakeBroker, key: str, value: msgspec.Struct) -> None:
    entry = broker.state.entries[key]
    entry.value = msgspec.json.encode(value)


async def test_a_new_service_is_accepted_whatever_it_declares(broker: FakeBroker, reviews: Stub):
    answer = await review(reviews, PLAIN)
    (service,) = answer.services
    assert (service.service, service.in_force, len(service.changes)) == (SERVICE, "", 0)
    assert not answer.refused
    assert [info.method for info in answer.methods] == [PLACE]
    # Nothing is registered.
    assert not broker.state.contracts
    assert RECORD_PREFIX + SERVICE not in broker.state.entries


async def test_a_review_groups_what_changes_worst_first(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    broker.tasks.held = [task(2), task(1, "RUNNING")]
    text = MESSAGES.replace("int64 number = 2", "string number = 2")
    answer = await review(reviews, orders_set('ordering_key: "id" priority: 1', messages=text))
    assert answer.refused
    (service,) = answer.services
    assert service.in_force == broker.state.contracts[SERVICE].digest
    assert [(change.effect, change.kind) for change in service.changes] == [
        (pb.CHANGE_EFFECT_REFUSED, "FIELD_TYPE_CHANGED"),
        (pb.CHANGE_EFFECT_NEEDS_DRAIN, "KEY_PATH_CHANGED"),
        (pb.CHANGE_EFFECT_HARMLESS, "POLICY_CHANGED"),
    ]
    _, minded, harmless = service.changes
    assert {each.state: each.count for each in minded.work.counts} == {
        task_pb2.TASK_STATE_READY: 1,
        task_pb2.TASK_STATE_RUNNING: 1,
    }
    assert list(minded.work.first_tasks) == ["t00001", "t00002"]
    assert minded.work.oldest_age.seconds > 0
    assert minded.advice
    assert (harmless.advice, harmless.HasField("work")) == ("", False)


async def test_a_review_says_what_an_announcement_is_told(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    for contract in (BROKEN, OTHER_KEY, orders_set("priority: 1")):
        answer = await review(reviews, contract)
        decision = await broker.announce(contract, [SERVICE], validate_only=True)
        assert answer.refused == decision.HasField("refusal")


async def test_development_is_told_what_would_be_refused(broker: FakeBroker):
    async with (
        RunningScheduler(broker.address, dev=True) as scheduler,
        await scheduler.channel() as channel,
    ):
        await broker.announce(PLAIN, [SERVICE])
        answer = await review(pb_grpc.ContractReviewServiceStub(channel), BROKEN)
    assert (answer.refused, answer.tolerant) == (False, True)
    assert answer.services[0].changes[0].effect == pb.CHANGE_EFFECT_REFUSED


async def test_what_is_no_contract_is_refused_in_a_review_as_well(reviews: Stub):
    for contract, reason in ((b"nonsense", "INVALID_REQUEST"), (orders_set('queue: "?"'), None)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await review(reviews, contract)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert errors.reason(refused.value) == (reason or "POLICY_INVALID")
    with pytest.raises(grpc.aio.AioRpcError) as unnamed:
        await reviews.ReviewContract(pb.ReviewContractRequest(descriptor_set=PLAIN), timeout=20)
    assert unnamed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_allowed_for_a_reason_is_accepted_once(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    broker.tasks.held = [task(1)]
    digest = (await review(reviews, OTHER_KEY)).digest
    await allow(reviews, digest)
    # Of another contract it allows nothing.
    refusal_of(await broker.announce(BROKEN, [SERVICE]))
    assert (await broker.announce(OTHER_KEY, [SERVICE])).policies
    newest, oldest = await decisions(reviews)
    assert (newest.version, newest.digest) == (2, digest)
    assert (newest.reason, newest.allowed_by) == ("the shop is closed", "me@here")
    assert newest.allow_time.seconds > 0
    (overridden,) = newest.overridden
    assert "ordering_key was none" in overridden
    assert "1 task: 1 READY" in overridden
    assert (oldest.version, oldest.reason, len(oldest.overridden)) == (1, "", 0)
    # It is used up.
    assert ALLOWANCE_PREFIX + SERVICE not in broker.state.entries
    await broker.announce(PLAIN + b"\xa0\x06\x01", [SERVICE], validate_only=True)
    refusal_of(await broker.announce(PLAIN, [SERVICE], replace=True))


async def test_a_verdict_alone_uses_no_leave_up(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    await allow(reviews, (await review(reviews, BROKEN)).digest)
    for _ in range(2):
        assert (await broker.announce(BROKEN, [SERVICE], validate_only=True)).policies
    assert len(await decisions(reviews)) == 1


async def test_leave_is_over_after_a_while(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    digest = (await review(reviews, BROKEN)).digest
    await allow(reviews, digest)
    late = Allowance(digest, "r", "me", now_ms() - ALLOWANCE_MS - 1)
    put(broker, ALLOWANCE_PREFIX + SERVICE, late)
    refusal_of(await broker.announce(BROKEN, [SERVICE]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": " "},
        {"reason": "x" * 1001},
        {"allowed_by": ""},
        {"allowed_by": "x" * 201},
        {"digest": "abc"},
    ],
)
async def test_leave_without_a_reason_is_none(
    broker: FakeBroker, reviews: Stub, wrong: dict[str, str]
):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await allow(reviews, **{"digest": "0" * 64, **wrong})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ALLOWANCE_PREFIX + SERVICE not in broker.state.entries


async def test_who_allowed_it_stays_when_another_language_announces_the_same(
    broker: FakeBroker, reviews: Stub
):
    await broker.announce(PLAIN, [SERVICE])
    await allow(reviews, (await review(reviews, BROKEN)).digest)
    await broker.announce(BROKEN, [SERVICE])
    await broker.announce(BROKEN + b"\xa0\x06\x01", [SERVICE])
    newest, _ = await decisions(reviews)
    assert (newest.version, newest.reason) == (2, "the shop is closed")
    assert newest.digest == broker.state.contracts[SERVICE].digest


async def test_an_earlier_contract_may_come_back(broker: FakeBroker, reviews: Stub):
    await broker.announce(SMALLER, [SERVICE])
    await broker.announce(PLAIN, [SERVICE])
    # The field is gone again, unreserved; a contract that was never in force may not do that.
    other = orders_set("priority: 1", messages=MESSAGES.replace("int64 number = 2;", ""))
    refusal_of(await broker.announce(other, [SERVICE]))
    assert (await broker.announce(SMALLER, [SERVICE])).policies
    assert [each.version for each in await decisions(reviews)] == [1, 2, 1]


@pytest.mark.parametrize("size", [1, 20_000])
async def test_the_history_is_bounded(broker: FakeBroker, reviews: Stub, size: int):
    await broker.announce(PLAIN, [SERVICE])
    key = RECORD_PREFIX + SERVICE
    before = msgspec.json.decode(broker.state.entries[key].value, type=ContractRecord)
    old = Decision("d", "f", 1, 0, "s", tolerated=("x" * size,))
    put(broker, key, msgspec.structs.replace(before, version=200, history=(old,) * 99))
    await broker.announce(orders_set("priority: 1"), [SERVICE])
    assert len(broker.state.entries[key].value) <= RECORD_BYTES_MAX
    found = await decisions(reviews)
    assert found[0].version == 201
    assert len(found) == HISTORY_MAX if size == 1 else 1 < len(found) < HISTORY_MAX


async def test_records_of_before_there_was_a_history_are_read(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    entry = broker.state.entries[RECORD_PREFIX + SERVICE]
    fields = msgspec.json.decode(entry.value)
    del fields["history"], fields["allowed"]
    entry.value = msgspec.json.encode(fields)
    await broker.announce(orders_set("priority: 1"), [SERVICE])
    assert [each.version for each in await decisions(reviews)] == [2, 1]


async def test_without_the_broker_it_says_so(broker: FakeBroker, reviews: Stub):
    await broker.stop()
    async with asyncio.timeout(20):
        while (code := await told(decisions(reviews))) is grpc.StatusCode.OK:
            pass
    assert code is grpc.StatusCode.UNAVAILABLE
    for call in (review(reviews, PLAIN), allow(reviews, "0" * 64)):
        assert await told(call) is grpc.StatusCode.UNAVAILABLE


async def told(call: Awaitable[object]) -> grpc.StatusCode:
    """How a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
async def work(broker: FakeBroker) -> AsyncIterator[WorkInFlight]:
    async with open_channel(broker.address) as channel:
        yield WorkInFlight(channel)


async def test_each_part_is_found(broker: FakeBroker, work: WorkInFlight):
    flow = task(1, "SUSPENDED", attempt=1, child_count=2)
    broker.tasks.held = [
        task(9, "SUCCEEDED"),
        task(8, "FAILED"),
        task(7, "SUCCEEDED", parent="t99999"),
        task(6, "FAILED", dead_letter=True, attempt=3),
        task(5, "SUCCEEDED", parent=flow.id),
        task(4, "SCHEDULED", parent=flow.id),
        task(3, "BACKOFF", attempt=2),
        task(2, "READY", method="/other.S/M"),
        flow,
    ]
    found = (await work.of(ALL, LOOK_SECONDS))[PLACE]
    assert not found.more
    assert {(each.id, each.part) for each in found.tasks} == {
        ("t00006", Part.DEAD_LETTER),
        ("t00005", Part.RECORDED),
        ("t00004", Part.UNFINISHED),
        ("t00003", Part.UNFINISHED),
        ("t00001", Part.UNFINISHED),
    }
    assert {each.id: each.attempt for each in found.tasks}["t00006"] == 3


async def test_nothing_is_looked_for_where_nothing_minds(broker: FakeBroker, work: WorkInFlight):
    broker.tasks.held = [task(1)]
    assert await work.of({}, LOOK_SECONDS) == {}
    assert broker.tasks.filters == []


async def test_queues_without_work_are_not_searched(broker: FakeBroker, reviews: Stub):
    await broker.announce(PLAIN, [SERVICE])
    broker.tasks.held = [task(1, "SUCCEEDED")]
    answer = await review(reviews, OTHER_KEY)
    assert not answer.refused
    assert broker.tasks.filters == []


async def test_ten_thousand_are_counted_and_not_many_more(broker: FakeBroker, work: WorkInFlight):
    wanted = {PLACE: frozenset({Part.UNFINISHED})}
    broker.tasks.held = [task(number) for number in range(TASKS_MAX, 0, -1)]
    found = (await work.of(wanted, LOOK_SECONDS))[PLACE]
    assert (len(found.tasks), found.more) == (TASKS_MAX, False)
    broker.tasks.held = [task(number) for number in range(TASKS_MAX + 2000, 0, -1)]
    found = (await work.of(wanted, LOOK_SECONDS))[PLACE]
    assert (len(found.tasks), found.more) == (TASKS_MAX + 1, True)


async def test_a_look_ends_in_time(broker: FakeBroker):
    broker.tasks.held = [task(1)]
    async with open_channel(broker.address) as channel:
        found = (await WorkInFlight(channel).of(ALL, look_seconds=0))[PLACE]
    assert (found.tasks, found.more) == ((), True)


async def test_lists_are_tried_again_while_the_broker_is_unavailable(
    broker: FakeBroker, work: WorkInFlight
):
    broker.tasks.held = [task(1)]
    broker.tasks.failures = [grpc.StatusCode.UNAVAILABLE] * 2
    found = (await work.of(ALL, LOOK_SECONDS))[PLACE]
    assert [each.id for each in found.tasks] == ["t00001"]
    assert broker.tasks.failures == []
