"""Reviews of contracts: what changes against the contract in force, and which tasks in flight mind.

The same for an announcement and for a question, so that what `plait contract check` says is what
happens.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass

import structlog

from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.work import WorkInFlight
from plait_scheduler.contracts.records import Records
from plait_scheduler.descriptors.contract_reader import ContractReadError
from plait_scheduler.domain.contract import Contract
from plait_scheduler.domain.registry import Invalid, Review, compare_with, review


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A contract and what is to be said of it."""

    contract: Contract
    # Those of the services that are in force, by service.
    in_force: dict[str, Contract]
    verdict: Review | Invalid


class Reviewer:
    """Reviews contracts. It keeps no state, so that reviews may run side by side.

    Errors are grpc.aio.AioRpcError.
    """

    def __init__(
        self,
        contracts: Contracts,
        records: Records,
        work: WorkInFlight,
        now_ms: Callable[[], int],
    ) -> None:
        self._contracts = contracts
        self._records = records
        self._work = work
        self._now_ms = now_ms
        self._log = structlog.get_logger("reviewer")

    async def review(
        self, contract: Contract, *, look_seconds: float, beside: Set[str] = frozenset()
    ) -> Reviewed:
        """Says what an announcement would be told now, after a look at the work in flight that
        takes so long at most. Services that are `beside` what is in force are not compared with it.
        """
        in_force = await self._in_force(contract)
        known = await self._known(contract, in_force)
        replaced = {name: old for name, old in in_force.items() if name not in beside}
        compared = compare_with(contract, replaced, known)
        if isinstance(compared, Invalid):
            return Reviewed(contract, in_force, compared)
        work = await self._work.of(compared.wanted(), look_seconds)
        return Reviewed(contract, in_force, review(compared, work, self._now_ms()))

    async def _in_force(self, contract: Contract) -> dict[str, Contract]:
        found = {}
        for service in contract.services:
            try:
                old = await self._contracts.in_force(service.name)
            except ContractReadError as error:
                # It was read when it was accepted, so a later version of this program has done
                # that.
                self._log.warning("contract.unreadable", service=service.name, error=str(error))
                continue
            if old is not None:
                found[service.name] = old
        return found

    async def _known(self, contract: Contract, in_force: dict[str, Contract]) -> set[str]:
        """The services of which exactly this was in force before."""
        known = set()
        for service in contract.services:
            old = in_force.get(service.name)
            if old is None or old.digest == contract.digest:
                continue
            record = await self._records.of(service.name)
            fingerprint = contract.fingerprint(service)
            if record and any(each.fingerprint == fingerprint for each in record.decisions()):
                known.add(service.name)
        return known
