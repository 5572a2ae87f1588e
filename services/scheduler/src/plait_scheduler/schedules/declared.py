"""Schedules that contracts declare: they come, change and go with the contract in force."""

from collections.abc import Iterable

import structlog

from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.descriptors.contract_reader import ContractReadError
from plait_scheduler.domain.policy_compiler import compile_contract
from plait_scheduler.domain.schedule import Schedule
from plait_scheduler.schedules.book import Book, NoScheduleError, TooManySchedulesError


class Declared:
    """Brings the book in line with contracts that have changed, and with all of them once after a
    start: one may have been accepted by a scheduler that died then.
    """

    def __init__(self, book: Book, contracts: Contracts) -> None:
        self._book = book
        self._contracts = contracts
        self._log = structlog.get_logger("schedules")
        # Services whose contract is to be read, and whether it is to be asked which there are.
        self._stale: set[str] = set()
        self._ask = True

    def reset(self) -> None:
        """A new observation begins."""
        self._ask = True

    def changed(self, services: Iterable[str]) -> None:
        """Other contracts are in force for these services."""
        self._stale |= set(services)

    async def carry_over(self) -> int:
        """Creates, changes and removes what contracts declare; returns how many services were read.
        Errors are grpc.aio.AioRpcError; what was not read then is read the next time.
        """
        # What changes, or begins anew, while an answer is waited for is noted for the next turn.
        if self._ask:
            self._ask = False
            try:
                services = await self._contracts.services()
            except BaseException:
                self._ask = True
                raise
            self._stale.update(services, map(_service, self._managed()))
        stale, self._stale = sorted(self._stale), set()
        for count, service in enumerate(stale):
            try:
                await self._of(service)
            except BaseException:
                self._stale.update(stale[count:])
                raise
        return len(stale)

    async def _of(self, service: str) -> None:
        """A contract that this program cannot read, or would refuse, changes nothing."""
        try:
            contract = await self._contracts.in_force(service)
        except ContractReadError as error:
            self._log.warning("schedules.contract.unread", service=service, error=str(error))
            return
        wanted: dict[str, Schedule] = {}
        if contract is not None:
            compiled = compile_contract(contract)
            if compiled.violations:
                return
            found = (policy.schedule for policy in compiled.policies)
            wanted = {each.name: each for each in found if each is not None}
        try:
            for schedule in self._managed():
                if _service(schedule) == service and schedule.name not in wanted:
                    await self._book.delete(schedule.name)
                    self._log.info("schedule.removed", schedule=schedule.name)
            for schedule in wanted.values():
                if await self._book.put(schedule):
                    self._log.info("schedule.declared", schedule=schedule.name)
        except (VersionMismatchError, NoScheduleError, TooManySchedulesError) as error:
            self._log.warning("schedules.undeclared", service=service, error=repr(error))

    def _managed(self) -> list[Schedule]:
        return [each.schedule for each in self._book.all() if each.schedule.managed]


def _service(schedule: Schedule) -> str:
    return schedule.method.lstrip("/").partition("/")[0]
