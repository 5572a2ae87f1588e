"""The registry loop: answers announced contracts and keeps their history in the key space."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
from google.rpc import status_pb2

from plait import errors
from plait_scheduler.broker import refusals
from plait_scheduler.broker.control import Control
from plait_scheduler.contracts.records import Allowance, Decision, Records, shortened
from plait_scheduler.contracts.reviewer import Reviewed, Reviewer
from plait_scheduler.descriptors.contract_reader import ContractReadError
from plait_scheduler.domain.change import Effect
from plait_scheduler.domain.contract import Contract
from plait_scheduler.domain.events import ContractAnnounced
from plait_scheduler.domain.registry import Invalid, Review
from plait_scheduler.domain.words import sentence
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
        now_ms: Callable[[], int],
        in_force: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        """`in_force` is told of services that have another contract now."""
        config.validate()
        super().__init__()
        self._config = config
        self._control = control
        self._reviewer = reviewer
        self._records = records
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
            reviewed = await self._reviewer.review(
                announced.descriptor_set,
                announced.services,
                announced.digest,
                look_seconds=LOOK_SECONDS,
            )
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
        match reviewed.verdict:
            case Invalid(violations):
                refusal = refusals.policy_invalid(announced.services, violations)
                return await self._refuse(announced, refusal, "invalid")
            case Review() as review:
                return await self._judge(announced, reviewed, review)

    async def _judge(
        self, announced: ContractAnnounced, reviewed: Reviewed, review: Review
    ) -> Counts:
        """Refuses what has problems that nobody has allowed."""
        overridden = {service: _problems(review, service) for service in review.findings}
        allowed: dict[str, Allowance] = {}
        for service in (each for each, texts in overridden.items() if texts):
            leave = await self._records.allowance(service, announced.digest, self._now_ms())
            if leave is not None:
                allowed[service] = leave
            elif not self._config.tolerant:
                refusal = refusals.contract_incompatible(announced.services, review.problems)
                return await self._refuse(announced, refusal, "incompatible")
        decisions = self._decisions(reviewed.contract, overridden, allowed)
        return await self._accept(announced, review, decisions)

    def _decisions(
        self,
        contract: Contract,
        overridden: dict[str, tuple[str, ...]],
        allowed: dict[str, Allowance],
    ) -> dict[str, Decision]:
        return {
            service.name: Decision(
                digest=contract.digest,
                fingerprint=contract.fingerprint(service),
                version=0,
                decide_time_ms=self._now_ms(),
                scheduler=self._config.scheduler,
                tolerated=overridden.get(service.name, ()),
                allowed=allowed.get(service.name),
            )
            for service in contract.services
        }

    async def _accept(
        self, announced: ContractAnnounced, review: Review, decisions: dict[str, Decision]
    ) -> Counts:
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
        await self._control.accept(announced.announcement, review.policies)
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
        )
        return {"accepted": 1, "tolerated": len(overridden)}

    async def _refuse(
        self, announced: ContractAnnounced, refusal: status_pb2.Status, why: str
    ) -> Counts:
        await self._control.refuse(announced.announcement, refusal)
        self._log.info("contract.refused", services=announced.services, why=refusal.message)
        return {why: 1}


def _problems(review: Review, service: str) -> tuple[str, ...]:
    """What would refuse a service, as it is kept."""
    return shortened(
        f"{finding.change.subject}: {sentence(finding)}"
        for finding in review.findings[service]
        if finding.effect is not Effect.HARMLESS
    )
