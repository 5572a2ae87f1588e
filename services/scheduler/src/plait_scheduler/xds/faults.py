"""The faults of direct calls: kept in the key space, so that another scheduler goes on with them,
and ended by their time.

Who sets, clears and ends one is logged as `fault.set`, `fault.cleared` and `fault.ended`.
"""

import asyncio
import contextlib
from collections.abc import Callable

import grpc
import msgspec
import structlog

from plait_scheduler.broker.key_value import KeyValue
from plait_scheduler.domain.call_fault import CallFault
from plait_scheduler.domain.codes import code_name

PREFIX = "scheduler/faults/"
# One is set by hand, so this bounds a mistake.
FAULTS_MAX = 100


class TooManyFaultsError(Exception):
    """There are as many as there may be."""


class Faults:
    """Errors are grpc.aio.AioRpcError where not said otherwise."""

    def __init__(self, key_value: KeyValue, now_ms: Callable[[], int]) -> None:
        self._key_value = key_value
        self._now_ms = now_ms
        # By method; None: not read yet.
        self._known: dict[str, CallFault] | None = None
        self._lock = asyncio.Lock()
        self._log = structlog.get_logger("faults")
        # Set when there are others than before.
        self.changed = asyncio.Event()

    def reset(self) -> None:
        """A new observation begins: another scheduler may have written meanwhile."""
        self._known = None
        self.changed.set()

    async def all(self) -> dict[str, CallFault]:
        """Those that are not over, by method."""
        async with self._lock:
            now_ms = self._now_ms()
            known = await self._load()
            return {name: each for name, each in known.items() if not each.is_over(now_ms)}

    async def put(self, fault: CallFault) -> None:
        """Sets it, in place of the method's before. Raises TooManyFaultsError."""
        async with self._lock:
            known = await self._load()
            if fault.method not in known and len(known) >= FAULTS_MAX:
                raise TooManyFaultsError
            await self._key_value.put(PREFIX + fault.method, msgspec.json.encode(fault))
            known[fault.method] = fault
        self._log.warning("fault.set", by=fault.set_by, **_said(fault))
        self.changed.set()

    async def clear(self, method: str, by: str) -> CallFault | None:
        """Ends it now. Answers it; None where there was none."""
        async with self._lock:
            found = (await self._load()).get(method)
            if found is None or found.is_over(self._now_ms()):
                return None
            await self._key_value.delete(PREFIX + method)
            (await self._load()).pop(method, None)
        self._log.warning("fault.cleared", by=by, **_said(found))
        self.changed.set()
        return found

    async def sweep(self) -> int:
        """Removes those that are over; answers how many there were. Raises nothing."""
        async with self._lock:
            now_ms, known = self._now_ms(), self._known or {}
            over = [each for each in known.values() if each.is_over(now_ms)]
            for fault in over:
                # Callers are told whether or not its key can be removed now.
                del known[fault.method]
                self._log.warning("fault.ended", by=fault.set_by, **_said(fault))
            for fault in over:
                # One that stays is read again by the next scheduler, and is over.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await self._key_value.delete(PREFIX + fault.method)
        return len(over)

    def next_end_ms(self) -> int | None:
        """When the next one ends; None: none is known."""
        return min((each.end_ms for each in (self._known or {}).values()), default=None)

    async def _load(self) -> dict[str, CallFault]:
        if self._known is None:
            entries = await self._key_value.all(PREFIX)
            found = (msgspec.json.decode(each.value, type=CallFault) for each in entries.values())
            self._known = {each.method: each for each in found}
        return self._known


def _said(fault: CallFault) -> dict[str, object]:
    """For the log."""
    said: dict[str, object] = {"method": fault.method, "end_ms": fault.end_ms}
    if fault.abort is not None:
        said |= {"abort": code_name(fault.abort.code), "abort_per_million": fault.abort.share}
    if fault.delay is not None:
        said |= {"delay_ms": fault.delay.delay_ms, "delay_per_million": fault.delay.share}
    return said
