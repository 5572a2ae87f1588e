"""The schedule loop: runs what is due."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import grpc

from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.loops.loop import Counts, Loop
from plait_scheduler.schedules.book import Book
from plait_scheduler.schedules.declared import Declared

# A wall clock may be set: how late that is seen at most.
PAUSE_MS = 1000
# Schedules that are carried out at once: those of one minute may be thousands.
AT_ONCE = 64


class ScheduleLoop(Loop):
    """Works while the broker is observed; whoever else observes it meanwhile decides the same."""

    name = "schedule"

    def __init__(
        self,
        book: Book,
        declared: Declared,
        connected: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        super().__init__()
        self._book = book
        self._declared = declared
        self._connected = connected
        self._now_ms = now_ms

    def reset(self) -> None:
        """A new observation begins."""
        self._book.reset()
        self._declared.reset()

    def contracts_changed(self, services: Iterable[str]) -> None:
        """Other contracts are in force for these services."""
        self._declared.changed(services)
        self._book.forget_methods()

    async def wait(self) -> None:
        pause_ms = PAUSE_MS
        if self._book.is_loaded:
            wake_ms = self._book.wake_ms()
            if wake_ms is not None:
                pause_ms = min(pause_ms, wake_ms - self._now_ms())
        if self._connected() and pause_ms <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(pause_ms, 1) / 1000):
                await self._book.changed.wait()
        self._book.changed.clear()

    async def run_once(self) -> Counts:
        if not self._connected():
            return {}
        await self._book.load()
        declared = await self._declared.carry_over()
        due = self._book.due()
        limit = asyncio.Semaphore(AT_ONCE)
        runs = await asyncio.gather(*(self._one(name, limit) for name in due))
        return {"runs": sum(runs), "declared": declared}

    async def _one(self, name: str, limit: asyncio.Semaphore) -> int:
        """One that fails holds up no other, and comes again."""
        async with limit:
            try:
                return await self._book.carry_out(name)
            except grpc.aio.AioRpcError as error:
                self._log.warning("schedule.failed", schedule=name, error=error.details())
            except VersionMismatchError:
                self._log.warning("schedule.contended", schedule=name)
        return 0
