"""Announced contracts are answered, recorded, and survive whoever dies meanwhile."""

from typing import Any, TypeVar

import grpc
import msgspec
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from plait import errors
from plait.v1 import task_pb2
from plait_scheduler.broker.refusals import policy_invalid
from plait_scheduler.contracts import reviewer
from plait_scheduler.contracts.records import RECORD_PREFIX, ContractRecord
from plait_scheduler.domain.violation import Violation
from services.scheduler.tests.contracts import FILE, SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker, refusal_of
from services.scheduler.tests.running import RunningScheduler

M = TypeVar("M", bound=Message)

PLAIN = orders_set()
OTHER_KEY = orders_set('ordering_key: "id"')
INVALID = orders_set('queue: "?" priority: 11')


def waiting(number: int, **fields: Any) -> task_pb2.Task:
    """A task that waits to start."""
    task = task_pb2.Task(
        id=f"t{number:04}",
        method=f"/{SERVICE}/Place",
        **{"state": task_pb2.TASK_STATE_READY, **fields},
    )
    task.create_time.FromSeconds(1_700_000_000 + number)
    return task


def record(broker: FakeBroker) -> ContractRecord:
    value = broker.state.entries[RECORD_PREFIX + SERVICE].value
    return msgspec.json.decode(value, type=ContractRecord)


def detail(status: status_pb2.Status, kind: type[M]) -> M:
    found = errors.detail(errors.from_status(status), kind)
    assert found is not None
    return found


async def test_policies_of_an_announced_contract_are_answered(
    broker: FakeBroker, scheduler: RunningScheduler
):
    decision = await broker.announce(orders_set('priority: 7 ordering_key: "item.sku"'), [SERVICE])
    assert not decision.HasField("refusal")
    (policy,) = decision.policies
    assert policy.info.method == "/shop.v1.Orders/Place"
    assert policy.info.ordering_key.numbers == [3, 1]
    assert policy.info.deadline.seconds == 86_400
    assert not policy.info.HasField("idempotency_key")
    assert policy.priority == 7
    assert policy.retryable_codes == sum(1 << code for code in (2, 4, 8, 10, 13, 14))
    assert record(broker).version == 1
    assert record(broker).digest == policy.info.contract


async def test_a_policy_that_cannot_hold_is_refused_with_every_fault(
    broker: FakeBroker, scheduler: RunningScheduler
):
    refusal = refusal_of(await broker.announce(INVALID, [SERVICE]))
    assert refusal.code == code_pb2.INVALID_ARGUMENT
    assert detail(refusal, error_details_pb2.ErrorInfo).reason == "POLICY_INVALID"
    violations = detail(refusal, error_details_pb2.BadRequest).field_violations
    assert {violation.field for violation in violations} == {
        f"{FILE}: {SERVICE}.Place: task.queue",
        f"{FILE}: {SERVICE}.Place: task.priority",
    }
    for violation in violations:
        assert violation.field in refusal.message
        assert violation.description in refusal.message
    assert RECORD_PREFIX + SERVICE not in broker.state.entries


async def test_a_contract_that_breaks_tasks_in_flight_is_refused(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(PLAIN, [SERVICE])
    broker.tasks.held = [waiting(1)]
    refusal = refusal_of(await broker.announce(OTHER_KEY, [SERVICE]))
    assert refusal.code == code_pb2.FAILED_PRECONDITION
    assert detail(refusal, error_details_pb2.ErrorInfo).reason == "CONTRACT_INCOMPATIBLE"
    (violation,) = detail(refusal, error_details_pb2.PreconditionFailure).violations
    assert violation.type == "KEY_PATH_CHANGED"
    assert violation.subject == f"{SERVICE}.Place"
    assert "1 task: 1 READY" in violation.description
    assert "t0001" in violation.description
    assert record(broker).version == 1
    # It is accepted as it is once they are done.
    broker.tasks.held = []
    assert (await broker.announce(OTHER_KEY, [SERVICE])).policies
    assert record(broker).version == 2
    assert record(broker).tolerated == ()
    assert [each.version for each in record(broker).history] == [1]


async def test_development_tolerates_it_and_says_so(broker: FakeBroker):
    async with RunningScheduler(broker.address, dev=True) as scheduler:
        await scheduler.ready
        await broker.announce(PLAIN, [SERVICE])
        broker.tasks.held = [waiting(1)]
        decision = await broker.announce(OTHER_KEY, [SERVICE])
    assert not decision.HasField("refusal")
    assert record(broker).version == 2
    assert "ordering_key was none" in record(broker).tolerated[0]


async def test_bytes_that_are_no_contract_are_refused(
    broker: FakeBroker, scheduler: RunningScheduler
):
    refusal = refusal_of(await broker.announce(b"nonsense", [SERVICE]))
    assert detail(refusal, error_details_pb2.ErrorInfo).reason == "INVALID_REQUEST"


async def test_a_contract_that_the_scheduler_fails_on_does_not_end_it(
    broker: FakeBroker, scheduler: RunningScheduler, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(reviewer, "compare_with", lambda *_: 1 / 0)
        refusal = refusal_of(await broker.announce(PLAIN, [SERVICE]))
    assert "a fault of ours: ZeroDivisionError" in refusal.message
    assert (await broker.announce(PLAIN, [SERVICE])).policies


async def test_a_verdict_alone_registers_nothing(broker: FakeBroker, scheduler: RunningScheduler):
    decision = await broker.announce(PLAIN, [SERVICE], validate_only=True)
    assert decision.policies
    assert RECORD_PREFIX + SERVICE not in broker.state.entries


async def test_the_same_contract_in_other_bytes_is_the_same_version(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await broker.announce(PLAIN, [SERVICE])
    # An unknown field of the file: other bytes, nothing declared.
    await broker.announce(PLAIN + b"\xa0\x06\x01", [SERVICE])
    assert record(broker).version == 1
    await broker.announce(orders_set("priority: 1"), [SERVICE])
    assert record(broker).version == 2


async def test_another_writer_of_the_record_is_not_overwritten(
    broker: FakeBroker, scheduler: RunningScheduler
):
    broker.failures["PutEntry"] = [grpc.StatusCode.ABORTED, grpc.StatusCode.ABORTED]
    await broker.announce(PLAIN, [SERVICE])
    assert broker.failures["PutEntry"] == []
    assert record(broker).version == 1


@pytest.mark.parametrize("method", ["GetContract", "GetEntry", "DecideContract"])
async def test_calls_are_tried_again_while_the_broker_is_unavailable(
    broker: FakeBroker, scheduler: RunningScheduler, method: str
):
    broker.failures[method] = [grpc.StatusCode.UNAVAILABLE] * 2
    decision = await broker.announce(PLAIN, [SERVICE])
    assert decision.policies
    assert broker.failures[method] == []


async def test_a_turn_that_fails_does_not_end_the_loop(
    broker: FakeBroker, scheduler: RunningScheduler
):
    broker.failures["GetContract"] = [grpc.StatusCode.INTERNAL]
    first = broker.announce(PLAIN, [SERVICE])
    decision = await broker.announce(PLAIN, [SERVICE])
    assert decision.policies
    assert not first.done()
    # What was not decided is told to the next observer.
    broker.end_stream()
    assert (await first).policies


async def test_contracts_announced_while_nobody_observes_are_decided_later(broker: FakeBroker):
    waiting = broker.announce(PLAIN, [SERVICE])
    async with RunningScheduler(broker.address):
        assert (await waiting).policies


async def test_a_scheduler_that_was_killed_goes_on_where_it_was(broker: FakeBroker):
    async with RunningScheduler(broker.address) as first:
        await first.ready
        await broker.announce(PLAIN, [SERVICE])
        await first.kill()
        async with RunningScheduler(broker.address) as second:
            await second.ready
            broker.tasks.held = [waiting(1)]
            refusal = refusal_of(await broker.announce(OTHER_KEY, [SERVICE]))
            await broker.announce(orders_set("priority: 1"), [SERVICE])
    assert "ordering_key was none" in refusal.message
    assert record(broker).version == 2


def test_a_refusal_fits_into_trailers():
    violations = [
        Violation("f" * 200, "s" * 300, f"task.{n}", "description " * 100) for n in range(500)
    ]
    status = policy_invalid(["a.B"] * 200, violations)
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message) < 8192
    assert "and 49" in status.message
    assert detail(status, error_details_pb2.BadRequest).field_violations
