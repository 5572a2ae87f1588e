"""Versions of a contract beside one another, as they are announced."""

import hashlib
from typing import TYPE_CHECKING

import grpc

from plait.control.v1 import contract_review_service_pb2 as pb
from plait.control.v1 import contract_review_service_pb2_grpc as pb_grpc
from services.scheduler.tests.contracts import MESSAGES, SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker, refusal_of
from services.scheduler.tests.running import RunningScheduler

if TYPE_CHECKING:
    from plait.v1 import contract_service_pb2 as contract_pb
from plait.v1 import task_pb2

PLACE = f"/{SERVICE}/Place"
FIRST = orders_set()
RECEIPT = "message Receipt { string id = 1; }"
LATER = orders_set(
    "priority: 3", messages=MESSAGES.replace(RECEIPT, RECEIPT.replace("}", "string by = 2; }"))
)
BROKEN = orders_set(messages=MESSAGES.replace("int64 number = 2", "string number = 2"))


def digest(contract: bytes) -> str:
    return hashlib.sha256(contract).hexdigest()


async def routes(broker: FakeBroker, contract: bytes, **how: bool) -> tuple[list[str], bool]:
    """What a method's route and those served are, and whether another contract stays in force."""
    decision = await broker.announce(contract, [SERVICE], **how)
    (policy,) = decision.policies
    info: contract_pb.MethodInfo = policy.info
    return [info.route, *info.served_routes], list(decision.beside_services) == [SERVICE]


async def decisions(scheduler: RunningScheduler) -> list[tuple[int, bool, int]]:
    """Version, whether it is beside another, and workers."""
    async with await scheduler.channel() as channel:
        stub: pb_grpc.ContractReviewServiceAsyncStub = pb_grpc.ContractReviewServiceStub(channel)
        request = pb.ListContractDecisionsRequest(service=SERVICE)
        answer = await stub.ListContractDecisions(request, timeout=20)
    return [(each.version, each.beside, each.workers) for each in answer.decisions]


async def test_a_later_client_comes_before_its_worker(
    broker: FakeBroker, scheduler: RunningScheduler
):
    assert await routes(broker, FIRST) == ([PLACE, PLACE], False)
    later = [f"{PLACE}@2", PLACE, f"{PLACE}@2"]
    assert await routes(broker, LATER, for_worker=False) == (later, True)
    assert await decisions(scheduler) == [(1, False, 0), (2, True, 0)]
    assert await routes(broker, LATER) == (later, False)
    assert await decisions(scheduler) == [(2, False, 0), (1, False, 0)]
    # In the bytes of another language, for a client and for a worker.
    for how in (False, True):
        assert (await routes(broker, LATER + b"\xa0\x06\x01", for_worker=how))[0] == later
    assert len(await decisions(scheduler)) == 2


async def test_an_earlier_worker_stays_beside_a_later_one(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await routes(broker, FIRST)
    await routes(broker, LATER)
    served = (PLACE, f"{PLACE}@2")
    broker.attach("later", 1, served, contracts=(digest(LATER),))
    broker.attach("first", 1, (PLACE,), contracts=(digest(FIRST),))
    assert await routes(broker, FIRST) == ([PLACE, PLACE], True)
    assert await decisions(scheduler) == [(2, False, 1), (1, False, 1)]
    assert await routes(broker, FIRST, replace=True) == ([PLACE, PLACE], False)
    assert await decisions(scheduler) == [(1, False, 1), (2, False, 1), (1, False, 1)]
    assert (await routes(broker, LATER))[1] is False
    broker.detach("later")
    assert await routes(broker, FIRST) == ([PLACE, PLACE], False)


async def test_workers_of_an_earlier_contract_come_back_whatever_it_would_take_away(
    broker: FakeBroker, scheduler: RunningScheduler
):
    """As in a roll-back, while tasks wait that would mind."""
    await routes(broker, FIRST)
    await routes(broker, orders_set('ordering_key: "id"'))
    ready = task_pb2.TASK_STATE_READY
    broker.tasks.held = [task_pb2.Task(id="t1", method=PLACE, state=ready)]
    assert await routes(broker, FIRST) == ([PLACE, PLACE], True)
    assert await decisions(scheduler) == [(2, False, 0), (1, False, 0)]
    refusal = refusal_of(await broker.announce(FIRST, [SERVICE], replace=True))
    assert "t1" in refusal.message
    broker.tasks.held = []
    assert await routes(broker, FIRST) == ([PLACE, PLACE], False)


async def test_bytes_that_no_worker_can_read_are_refused(
    broker: FakeBroker, scheduler: RunningScheduler
):
    await routes(broker, FIRST)
    refusal = refusal_of(await broker.announce(BROKEN, [SERVICE], for_worker=False))
    assert refusal.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "number" in refusal.message
    # Another policy or a method less is nothing that its bytes mind.
    other = orders_set('ordering_key: "id"')
    assert await routes(broker, other, for_worker=False) == ([PLACE, PLACE], True)


async def test_development_gives_broken_bytes_a_route_of_their_own(broker: FakeBroker):
    async with RunningScheduler(broker.address, dev=True):
        await routes(broker, FIRST)
        own = f"{PLACE}@2"
        assert await routes(broker, BROKEN, for_worker=False) == ([own, own], True)
