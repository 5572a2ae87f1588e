"""Announced contracts are answered, recorded, and survive whoever dies meanwhile."""

import msgspec
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

from plait_scheduler.loops.registry import KEY_PREFIX, ContractRecord

CHANGED = orders_set('ordering_key: "id"')


def record(broker: FakeBroker) -> ContractRecord:
    value = broker.state.entries[KEY_PREFIX + SERVICE].value
    return msgspec.json.decode(value, type=ContractRecord)


async def test_policies_of_an_announced_contract_are_answered(
    broker: FakeBroker, scheduler: RunningScheduler
):
    decision = await broker.announce(orders_set("priority: 7"), [SERVICE])
    assert not decision.HasField("refusal")
    assert [p.info.method for p in decision.policies] == ["/shop.v1.Orders/Place"]
    assert decision.policies[0].priority == 7
    assert record(broker).version == 1
    assert record(broker).digest == decision.policies[0].info.contract
