"""The rollouts of a mesh: read once, changed by compare-and-swap, and told to the broker.

A decision is written down first and told then: killed in between, whoever comes next tells it. The
broker keeps what it was told, so it goes on with the last shares while no scheduler is there.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import grpc
import msgspec
import structlog

from plait_scheduler.broker.control import Control
from plait_scheduler.broker.key_value import ABSENT, KeyValue
from plait_scheduler.domain.call_load import Load, sides
from plait_scheduler.domain.events import SplitFigures
from plait_scheduler.domain.rollout import Rollout, Split, State, split, splits
from plait_scheduler.domain.rollout_evidence import Evidence
from plait_scheduler.domain.routes import service_of

PREFIX = "scheduler/rollouts/"
# The broker's own bound.
ROLLOUTS_MAX = 1_000


class NoRolloutError(LookupError):
    """The service has none."""


class TooManyRolloutsError(Exception):
    """There are as many as there may be."""


@dataclass(slots=True)
class _Kept:
    """A rollout as it was last read or written, as JSON under its service's key."""

    rollout: Rollout
    version: int
    evidence: Evidence


class RolloutBook:
    """Errors are grpc.aio.AioRpcError; a write raises VersionMismatchError as well, where another
    scheduler has written.
    """

    def __init__(self, key_value: KeyValue, control: Control) -> None:
        self._key_value = key_value
        self._control = control
        self._kept: dict[str, _Kept] = {}
        self._loaded = False
        # None: nothing since the broker was connected to.
        self._told: tuple[Split, ...] | None = None
        self._lock = asyncio.Lock()
        self._log = structlog.get_logger("rollouts")

    def reset(self) -> None:
        """A new observation begins: another scheduler may have written, another broker not know."""
        self._loaded = False
        self._told = None

    async def load(self) -> None:
        """Reads all of them, where they are not known."""
        async with self._lock:
            await self._load()

    async def settle(self) -> bool:
        """Tells the broker what it does not know yet; whether there was anything."""
        async with self._lock:
            await self._load()
            return await self._tell()

    def all(self) -> list[Rollout]:
        """By service."""
        return [kept.rollout for _, kept in sorted(self._kept.items())]

    def get(self, service: str) -> tuple[Rollout, Evidence]:
        """One, and what was seen of it. Raises NoRolloutError."""
        kept = self._find(service)
        return kept.rollout, kept.evidence

    def observe(
        self, now_ms: int, figures: Iterable[SplitFigures], loads: Mapping[str, Load]
    ) -> None:
        """Takes in what the attempts of split services did, and direct calls by cluster."""
        # The sides of a rollout that is over may be others, and nothing is decided on them.
        running = {
            service: kept
            for service, kept in self._kept.items()
            if kept.rollout.state is State.RUNNING
        }
        found: dict[str, list[SplitFigures]] = {service: [] for service in running}
        for each in figures:
            service = service_of(each.method)
            if service in found:
                found[service].append(each)
        calls = sides(loads, {name: kept.rollout.plan.to for name, kept in running.items()})
        for service, kept in running.items():
            kept.evidence.observe(now_ms, found[service], calls.get(service))

    async def put(self, rollout: Rollout) -> None:
        """A rollout begins, in the place of one that is over."""
        async with self._lock:
            await self._load()
            service = rollout.plan.service
            kept = self._kept.get(service)
            if kept is None and len(self._kept) >= ROLLOUTS_MAX:
                raise TooManyRolloutsError
            version = await self._write(rollout, kept.version if kept else ABSENT)
            self._kept[service] = _Kept(rollout, version, Evidence())
            await self._tell()

    async def change(self, service: str, how: Callable[[Rollout], Rollout]) -> Rollout:
        """Changes one. Raises NoRolloutError."""
        async with self._lock:
            await self._load()
            kept = self._find(service)
            before, rollout = kept.rollout, how(kept.rollout)
            if rollout != before:
                kept.version = await self._write(rollout, kept.version)
                kept.rollout = rollout
                if rollout.share != before.share:
                    kept.evidence.renew()
                self._log.info(
                    "rollout.changed",
                    service=service,
                    version=rollout.plan.to,
                    share=rollout.share,
                    state=rollout.state.value,
                    reason=rollout.reason,
                )
            await self._tell()
            return rollout

    async def remove(self, service: str) -> None:
        """Forgets one. Raises NoRolloutError."""
        async with self._lock:
            await self._load()
            kept = self._find(service)
            await self._key_value.delete(PREFIX + service, kept.version)
            del self._kept[service]
            await self._tell()

    def splits(self) -> dict[str, Split] | None:
        """What is in force, by service; None while it is not known."""
        if not self._loaded:
            return None
        return {service: split(kept.rollout) for service, kept in self._kept.items()}

    async def _load(self) -> None:
        if self._loaded:
            return
        found = await self._key_value.all(PREFIX)
        before, self._kept = self._kept, {}
        for key, entry in found.items():
            service = key.removeprefix(PREFIX)
            kept = before.get(service)
            if kept is None or kept.version != entry.version:
                rollout = msgspec.json.decode(entry.value, type=Rollout)
                kept = _Kept(rollout, entry.version, Evidence())
            self._kept[service] = kept
        self._loaded = True

    async def _write(self, rollout: Rollout, version: int) -> int:
        value = msgspec.json.encode(rollout)
        return await self._key_value.put(PREFIX + rollout.plan.service, value, version)

    async def _tell(self) -> bool:
        wanted = splits(self.all())
        if self._told == wanted:
            return False
        # What the call may have changed although it fails is said again.
        self._told = None
        try:
            await self._control.set_splits(wanted)
        except grpc.aio.AioRpcError as error:
            # A broker of before there were any has none to forget.
            if wanted or error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        self._told = wanted
        return True

    def _find(self, service: str) -> _Kept:
        kept = self._kept.get(service)
        if kept is None:
            raise NoRolloutError(service)
        return kept
