"""The registry loop: answers announced contracts and keeps their history in the key space."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import msgspec
from google.rpc import status_pb2

from plait import errors
from plait_scheduler.broker import refusals
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.control import Control
from plait_scheduler.broker.key_value import ABSENT, KeyValue, VersionMismatchError
from plait_scheduler.descriptors.contract_reader import ContractReadError, read_contract
from plait_scheduler.domain.contract import Contract, ServiceShape
from plait_scheduler.domain.events import ContractAnnounced
from plait_scheduler.domain.registry import Accepted, Incompatible, Invalid, decide
from plait_scheduler.loops.loop import Counts, Loop

# Announcements that wait here; more wait in the broker, which stops reading for us.
INBOX_MAX = 64
KEY_PREFIX = "scheduler/contracts/"
# Writers of one key are this scheduler and, for a moment, the one it took over from.
SWAPS_MAX = 5


class ContractRecord(msgspec.Struct, frozen=True):
    """What is kept of a service's contract, as JSON under `scheduler/contracts/<service>`."""

    # SHA-256 of the descriptor set, in hexadecimal.
    digest: str
    # What it declares, apart from how its files are encoded: languages differ in that.
    fingerprint: str
    # 1 for the first contract of the service, one more each time that it declares something else.
    version: int
    # When it was decided on, in milliseconds since 1970.
    decide_time_ms: int
    # The scheduler that did.
    scheduler: str
    # Reasons that would have refused it outside development.
    tolerated: tuple[str, ...] = ()


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
        contracts: Contracts,
        key_value: KeyValue,
        now_ms: Callable[[], int],
    ) -> None:
        config.validate()
        super().__init__()
        self._config = config
        self._control = control
        self._contracts = contracts
        self._key_value = key_value
        self._now_ms = now_ms
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
            verdict = decide(contract, await self._in_force(contract), self._config.tolerant)
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
        match verdict:
            case Invalid(violations):
                refusal = refusals.policy_invalid(announced.services, violations)
                return await self._refuse(announced, refusal, "invalid")
            case Incompatible(problems):
                refusal = refusals.contract_incompatible(announced.services, problems)
                return await self._refuse(announced, refusal, "incompatible")
            case Accepted() as accepted:
                return await self._accept(announced, contract, accepted)

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

    async def _accept(
        self, announced: ContractAnnounced, contract: Contract, accepted: Accepted
    ) -> Counts:
        tolerated = tuple(problem.text for problem in accepted.tolerated)
        if tolerated:
            self._log.warning(
                "contract.incompatible", services=announced.services, tolerated=tolerated
            )
        if not announced.validate_only:
            # Before the answer: a contract in force is in the records, whenever this process dies.
            for service in contract.services:
                await self._record(service, contract, tolerated)
        await self._control.accept(announced.announcement, accepted.policies)
        self._log.info(
            "contract.accepted",
            services=announced.services,
            digest=announced.digest,
            methods=len(accepted.policies),
            validate_only=announced.validate_only,
        )
        return {"accepted": 1, "tolerated": len(tolerated)}

    async def _refuse(
        self, announced: ContractAnnounced, refusal: status_pb2.Status, why: str
    ) -> Counts:
        await self._control.refuse(announced.announcement, refusal)
        self._log.info("contract.refused", services=announced.services, why=refusal.message)
        return {why: 1}

    async def _record(
        self, service: ServiceShape, contract: Contract, tolerated: tuple[str, ...]
    ) -> None:
        key = KEY_PREFIX + service.name
        fingerprint = contract.fingerprint(service)
        for _ in range(SWAPS_MAX):
            entry = await self._key_value.get(key)
            before = msgspec.json.decode(entry.value, type=ContractRecord) if entry else None
            if before is not None and before.digest == contract.digest:
                return
            version = before.version if before else 0
            record = ContractRecord(
                digest=contract.digest,
                fingerprint=fingerprint,
                version=version + (before is None or before.fingerprint != fingerprint),
                decide_time_ms=self._now_ms(),
                scheduler=self._config.scheduler,
                tolerated=tolerated,
            )
            try:
                await self._key_value.put(
                    key, msgspec.json.encode(record), entry.version if entry else ABSENT
                )
            except VersionMismatchError:
                continue
            return
        self._log.warning("contract.record.contended", service=service.name)
