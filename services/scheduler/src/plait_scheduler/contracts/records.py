"""What is kept of contracts in the key space: the decision in force, those before, and what was
allowed although it breaks.
"""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from plait_scheduler.broker.key_value import ABSENT, Entry, KeyValue, VersionMismatchError
from plait_scheduler.domain.routes import Route

RECORD_PREFIX = "scheduler/contracts/"
ALLOWANCE_PREFIX = "scheduler/contracts-allowed/"
# For as long as a person needs from writing a reason to announcing the contract.
ALLOWANCE_MS = 10 * 60 * 1000
HISTORY_MAX = 100
# Programs of four languages, and some ways to build each.
DIGESTS_MAX = 16
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
    # 1 for the first contract of the service, one more for each that declares something new.
    version: int
    # When it was decided on, in milliseconds since 1970.
    decide_time_ms: int
    # The scheduler that did.
    scheduler: str
    # Reasons that would have refused it, where development tolerates or somebody allowed them.
    tolerated: tuple[str, ...] = ()
    # Who allowed that and why; None: nobody had to.
    allowed: Allowance | None = None
    # How its tasks find workers, by method.
    routes: dict[str, Route] = {}
    # Other digests of the same: languages encode files in different ways. The latest ones.
    digests: tuple[str, ...] = ()
    # Whether it was accepted beside the one in force, and has not been in force since.
    beside: bool = False

    def has(self, digest: str) -> bool:
        """Whether it is known by this digest."""
        return digest == self.digest or digest in self.digests


class ContractRecord(Decision, frozen=True):
    """What is kept of a service, as JSON under `scheduler/contracts/<service>`: the decision in
    force and those before it. One value, so that no crash comes between them.
    """

    # Newest first, without the one in force.
    history: tuple[Decision, ...] = ()
    # The highest version there ever was.
    latest: int = 0

    def decisions(self) -> tuple[Decision, ...]:
        """All of them, the one in force first and then newest first."""
        return (_decision(self), *self.history)

    def version_of(self, fingerprint: str) -> int | None:
        """The version that declares this; None: none of those that are kept."""
        known = (each.version for each in self.decisions() if each.fingerprint == fingerprint)
        return next(known, None)

    def versions_of(self, digests: Iterable[str]) -> set[int]:
        """The versions that are known by these digests."""
        wanted = set(digests)
        return {each.version for each in self.decisions() if wanted & {each.digest, *each.digests}}

    def next_version(self) -> int:
        """The number of the next version."""
        return 1 + max(self.latest, *(each.version for each in self.decisions()))


class Records:
    """Reads and writes them. Errors are grpc.aio.AioRpcError."""

    def __init__(self, key_value: KeyValue) -> None:
        self._key_value = key_value

    async def of(self, service: str) -> ContractRecord | None:
        """The record of a service; None where nothing was ever decided on it."""
        return _decoded(await self._key_value.get(RECORD_PREFIX + service), ContractRecord)

    async def add(self, service: str, decision: Decision) -> bool:
        """Makes a decision the one in force, or one beside it. False where others write again and
        again; that loses no decision of theirs.
        """
        key = RECORD_PREFIX + service
        for _ in range(SWAPS_MAX):
            entry = await self._key_value.get(key)
            before = _decoded(entry, ContractRecord)
            after = _following(before, decision)
            if after == before:
                return True
            value = _fitting(after)
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
    if before is None:
        return _record(decision, (), decision.version)
    latest = max(before.latest, before.version, decision.version)
    now = _decision(before)
    if now.fingerprint == decision.fingerprint:
        return _record(_same(now, decision), before.history, latest)
    known = [each for each in before.history if each.fingerprint == decision.fingerprint]
    if not decision.beside:
        digests = _digests(decision.digest, *known)
        taken = msgspec.structs.replace(decision, digests=digests)
        # What was beside others until now is in the history once.
        history = (now, *(each for each in before.history if not (each in known and each.beside)))
        return _record(taken, history, latest)
    if known:
        history = tuple(
            _same(each, decision) if each is known[0] else each for each in before.history
        )
        return _record(now, history, latest)
    return _record(now, (decision, *before.history), latest)


def _record(decision: Decision, history: tuple[Decision, ...], latest: int) -> ContractRecord:
    fields = {name: getattr(decision, name) for name in Decision.__struct_fields__}
    return ContractRecord(**fields, history=history[: HISTORY_MAX - 1], latest=latest)


def _same(known: Decision, again: Decision) -> Decision:
    """A known contract in the words of another language: what was decided, when, and who allowed
    it, stays.
    """
    if known.has(again.digest) and known.routes:
        return known
    digests = _digests(known.digest, again, known)
    return msgspec.structs.replace(known, digests=digests, routes=known.routes or again.routes)


def _digests(but: str, *known: Decision) -> tuple[str, ...]:
    """All digests of decisions on one contract, the latest first, but for one."""
    found = dict.fromkeys(digest for each in known for digest in (each.digest, *each.digests))
    return tuple(digest for digest in found if digest != but)[:DIGESTS_MAX]


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
