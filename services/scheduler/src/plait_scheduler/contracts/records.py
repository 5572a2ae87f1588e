"""What is kept of contracts in the key space: the decision in force, those before, and what was
allowed although it breaks.
"""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from plait_scheduler.broker.key_value import ABSENT, Entry, KeyValue, VersionMismatchError

RECORD_PREFIX = "scheduler/contracts/"
ALLOWANCE_PREFIX = "scheduler/contracts-allowed/"
# For as long as a person needs from writing a reason to announcing the contract.
ALLOWANCE_MS = 10 * 60 * 1000
HISTORY_MAX = 100
# A value of the key space may have 1 MiB.
RECORD_BYTES_MAX = 512 * 1024
OVERRIDDEN_MAX = 20
OVERRIDDEN_CHARACTERS_MAX = 300
# Writers of one key are this scheduler and, for a moment, the one it took over from.
SWAPS_MAX = 5

R = TypeVar("R", bound=msgspec.Struct)


class Allowance(msgspec.Struct, frozen=True):
    """Leave to break what is in force, as JSON under `scheduler/contracts-allowed/<service>`."""

    # Of the contract that it is for.
    digest: str
    reason: str
    # "user@host", as the command line says.
    allowed_by: str
    # When it was given, in milliseconds since 1970.
    allow_time_ms: int


class Decision(msgspec.Struct, frozen=True):
    """A contract that was accepted."""

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
    # Reasons that would have refused it, where development tolerates or somebody allowed them.
    tolerated: tuple[str, ...] = ()
    # Who allowed that and why; None: nobody had to.
    allowed: Allowance | None = None


class ContractRecord(Decision, frozen=True):
    """What is kept of a service, as JSON under `scheduler/contracts/<service>`: the decision in
    force and those before it. One value, so that no crash comes between them.
    """

    # Newest first, without the one in force.
    history: tuple[Decision, ...] = ()

    def decisions(self) -> tuple[Decision, ...]:
        """All of them, newest first."""
        return (_decision(self), *self.history)


class Records:
    """Reads and writes them. Errors are grpc.aio.AioRpcError."""

    def __init__(self, key_value: KeyValue) -> None:
        self._key_value = key_value

    async def of(self, service: str) -> ContractRecord | None:
        """The record of a service; None where nothing was ever decided on it."""
        return _decoded(await self._key_value.get(RECORD_PREFIX + service), ContractRecord)

    async def add(self, service: str, decision: Decision) -> bool:
        """Makes a decision the one in force. Its version is set here. False where others write
        again and again; that loses no decision of theirs.
        """
        key = RECORD_PREFIX + service
        for _ in range(SWAPS_MAX):
            entry = await self._key_value.get(key)
            before = _decoded(entry, ContractRecord)
            if before is not None and before.digest == decision.digest:
                return True
            value = _fitting(_following(before, decision))
            try:
                await self._key_value.put(key, value, entry.version if entry else ABSENT)
            except VersionMismatchError:
                continue
            return True
        return False

    async def allow(self, services: Iterable[str], allowance: Allowance) -> None:
        """Keeps leave to break services, in place of one that was given before."""
        for service in services:
            value = msgspec.json.encode(allowance)
            await self._key_value.put(ALLOWANCE_PREFIX + service, value)

    async def allowance(self, service: str, digest: str, now_ms: int) -> Allowance | None:
        """Leave for just this contract that is not over; None where there is none."""
        entry = await self._key_value.get(ALLOWANCE_PREFIX + service)
        found = _decoded(entry, Allowance)
        if found is None or found.digest != digest or now_ms - found.allow_time_ms > ALLOWANCE_MS:
            return None
        return found

    async def forget_allowance(self, service: str) -> None:
        """It was used, and is in the record now."""
        await self._key_value.delete(ALLOWANCE_PREFIX + service)


def shortened(texts: Iterable[str]) -> tuple[str, ...]:
    """Reasons as far as they are kept."""
    return tuple(text[:OVERRIDDEN_CHARACTERS_MAX] for text in list(texts)[:OVERRIDDEN_MAX])


def _following(before: ContractRecord | None, decision: Decision) -> ContractRecord:
    fields = msgspec.structs.asdict(decision)
    if before is None:
        return ContractRecord(**{**fields, "version": 1})
    if before.fingerprint == decision.fingerprint:
        # The same in the words of another language: who allowed it, stays.
        kept = {"version": before.version, "history": before.history}
        if decision.allowed is None:
            kept |= {"tolerated": before.tolerated, "allowed": before.allowed}
        return ContractRecord(**{**fields, **kept})
    history = before.decisions()[: HISTORY_MAX - 1]
    return ContractRecord(**{**fields, "version": before.version + 1, "history": history})


def _fitting(record: ContractRecord) -> bytes:
    """As JSON, without the oldest decisions that are too much."""
    value = msgspec.json.encode(record)
    while len(value) > RECORD_BYTES_MAX and record.history:
        kept = record.history[: len(record.history) // 2]
        record = msgspec.structs.replace(record, history=kept)
        value = msgspec.json.encode(record)
    return value


def _decision(record: ContractRecord) -> Decision:
    names = Decision.__struct_fields__
    return Decision(**{name: getattr(record, name) for name in names})


def _decoded(entry: Entry | None, kind: type[R]) -> R | None:
    return msgspec.json.decode(entry.value, type=kind) if entry else None
