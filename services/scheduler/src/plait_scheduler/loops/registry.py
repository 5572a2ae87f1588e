"""The registry loop: answers announced contracts and keeps their history in the key space."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import grpc
from google.rpc import status_pb2

from plait import errors
from plait_scheduler.broker import refusals
from plait_scheduler.broker.control import Control
from plait_scheduler.contracts.case import Case, as_kept, docket
from plait_scheduler.contracts.records import Allowance, Decision, Records
from plait_scheduler.contracts.reviewer import Reviewer
from plait_scheduler.descriptors.contract_reader import ContractReadError, read_contract
from plait_scheduler.domain.contract import Contract
from plait_scheduler.domain.events import ContractAnnounced
from plait_scheduler.domain.registry import Invalid, Review
from plait_scheduler.limits.book import LimitBook
from plait_scheduler.loops.loop import Counts, Loop

# Announcements that wait here; more wait in the broker, which stops reading for us.
INBOX_MAX = 64
# For the look at the work in flight. The broker waits 10 s for a decision.
LOOK_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """What the registry needs to know."""

    # Names this process in the records.
    scheduler: str
    # Whether contracts that do not fit the one in force are accepted with a warning, as in
    # development.
    tolerant: bool = False

    def validate(self) -> None:
        """Raises ValueError."""
        if not self.scheduler:
            raise ValueError("the registry needs the scheduler's id")


class RegistryLoop(Loop):
    """Takes announcements one at a time, so that two of one service cannot both win."""

    name = "registry"

    def __init__(
        self,
        config: RegistryConfig,
        control: Control,
        reviewer: Reviewer,
        records: Records,
        limits: LimitBook,
        attached: Callable[[str], Iterable[Sequence[str]]],
        now_ms: Callable[[], int],
        in_force: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        """`attached`: for each attached worker of a service, the digests that it announced.
        `limits` are the operator's; `in_force` is told of services that have another contract now.
        """
        config.validate()
        super().__init__()
        self._config = config
        self._control = control
        self._reviewer = reviewer
        self._records = records
        self._limits = limits
        self._attached = attached
        self._now_ms = now_ms
        self._in_force = in_force
        self._inbox: asyncio.Queue[ContractAnnounced] = asyncio.Queue(INBOX_MAX)
        self._next: ContractAnnounced | None = None

    async def add(self, announced: ContractAnnounced) -> None:
        """Takes an announcement; waits while the inbox is full."""
        await self._inbox.put(announced)

    def reset(self) -> None:
        """A new observation begins: what still waits will be announced anew."""
        self._next = None
        while not self._inbox.empty():
            self._inbox.get_nowait()

    async def wait(self) -> None:
        self._next = await self._inbox.get()

    async def run_once(self) -> Counts:
        announced, self._next = self._next, None
        if announced is None:
            return {}
        try:
            return await self._decide(announced)
        except grpc.aio.AioRpcError as error:
            if errors.reason(error) != errors.Reason.STATE_CONFLICT:
                raise
            # It was decided on before, by this process or the one that it took over from.
            return {"decided_before": 1}

    async def _decide(self, announced: ContractAnnounced) -> Counts:
        try:
            contract = read_contract(announced.descriptor_set, announced.services, announced.digest)
            case = await self._case(announced, contract)
        except grpc.aio.AioRpcError:
            raise
        except ContractReadError as error:
            refusal = refusals.contract_unreadable(announced.services, str(error))
            return await self._refuse(announced, refusal, "unreadable")
        except Exception as error:
            # Whoever announces must not be able to end this process, again after each restart.
            self._log.exception("contract.crashed", services=announced.services)
            refusal = refusals.contract_unreadable(
                announced.services, f"a fault of ours: {error!r}"
            )
            return await self._refuse(announced, refusal, "crashed")
        match case.reviewed.verdict:
            case Invalid(violations):
                refusal = refusals.policy_invalid(announced.services, violations)
                return await self._refuse(announced, refusal, "invalid")
            case Review() as review:
                return await self._judge(case, review)

    async def _case(self, announced: ContractAnnounced, contract: Contract) -> Case:
        """What there is to decide on."""
        dockets = {}
        for service in contract.services:
            record = await self._records.of(service.name)
            attached = [each for found in self._attached(service.name) for each in found]
            dockets[service.name] = docket(announced, contract, service, record, attached)
        beside = {name for name, one in dockets.items() if one.is_beside}
        reviewed = await self._reviewer.review(contract, look_seconds=LOOK_SECONDS, beside=beside)
        return Case(announced, dockets, reviewed)

    async def _judge(self, case: Case, review: Review) -> Counts:
        """Refuses what has problems that nobody has allowed. A contract that was accepted before
        only stays beside the one in force then, so that its workers can always come back.
        """
        announced = case.announced
        problems = case.problems(review)
        allowed: dict[str, Allowance] = {}
        held_back = set()
        for service in problems:
            leave = await self._records.allowance(service, announced.digest, self._now_ms())
            if leave is not None:
                allowed[service] = leave
            elif self._config.tolerant:
                continue
            elif case.dockets[service].may_stay_beside and not announced.validate_only:
                held_back.add(service)
            else:
                refusal = refusals.contract_incompatible(
                    announced.services, [each for found in problems.values() for each in found]
                )
                return await self._refuse(announced, refusal, "incompatible")
        case = case.beside(held_back)
        for service in held_back:
            del problems[service]
        decisions = {
            service.name: Decision(
                digest=announced.digest,
                fingerprint=case.reviewed.contract.fingerprint(service),
                version=case.dockets[service.name].version,
                decide_time_ms=self._now_ms(),
                scheduler=self._config.scheduler,
                tolerated=as_kept(problems.get(service.name, ())),
                allowed=allowed.get(service.name),
                routes=case.routes(service),
                beside=case.dockets[service.name].is_beside,
            )
            for service in case.reviewed.contract.services
        }
        return await self._accept(case, review, decisions)

    async def _accept(self, case: Case, review: Review, decisions: dict[str, Decision]) -> Counts:
        announced = case.announced
        overridden = [text for each in decisions.values() for text in each.tolerated]
        if overridden:
            self._log.warning(
                "contract.incompatible", services=announced.services, tolerated=overridden
            )
        if not announced.validate_only:
            # Before the answer: a contract in force is in the records, whenever this process dies.
            for service, decision in decisions.items():
                if not await self._records.add(service, decision):
                    self._log.warning("contract.record.contended", service=service)
        routes = {path: one for each in decisions.values() for path, one in each.routes.items()}
        kept = [name for name, one in case.dockets.items() if one.keeps_policies]
        async with self._limits.deciding() as limited:
            policies = limited(review.policies)
            await self._control.accept(announced.announcement, policies, routes, kept)
        if not announced.validate_only:
            self._in_force(announced.services)
            for service in (each for each, one in decisions.items() if one.allowed):
                await self._records.forget_allowance(service)
        self._log.info(
            "contract.accepted",
            services=announced.services,
            digest=announced.digest,
            methods=len(review.policies),
            validate_only=announced.validate_only,
            standing={name: one.standing.value for name, one in case.dockets.items()},
        )
        return {"accepted": 1, "tolerated": len(overridden)}

    async def _refuse(
        self, announced: ContractAnnounced, refusal: status_pb2.Status, why: str
    ) -> Counts:
        await self._control.refuse(announced.announcement, refusal)
        self._log.info("contract.refused", services=announced.services, why=refusal.message)
        return {why: 1}
