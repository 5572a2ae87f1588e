"""The limit loop: puts the operator's limits in force again after a takeover, and ends those whose
time is over.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import grpc

from plait_scheduler.loops.loop import Counts, Loop

# A wall clock may be set: how late that is seen at most. Also the pause after a turn that failed.
PAUSE_MS = 1000


class Book(Protocol):
    """What an operator has set, written down and in force."""

    # Set when there may be something to do.
    changed: asyncio.Event

    def reset(self) -> None:
        """A new observation begins."""

    def wake_ms(self) -> int | None:
        """When there is something to do; None: at no time."""

    async def settle(self) -> dict[str, int]:
        """Does it."""


class LimitLoop(Loop):
    """Works while the broker is observed."""

    name = "limit"

    def __init__(
        self, book: Book, connected: Callable[[], bool], now_ms: Callable[[], int]
    ) -> None:
        super().__init__()
        self._book = book
        self._connected = connected
        self._now_ms = now_ms

    def reset(self) -> None:
        """A new observation begins."""
        self._book.reset()

    async def wait(self) -> None:
        while not self._is_due():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_MS / 1000):
                    await self._book.changed.wait()
            self._book.changed.clear()

    async def run_once(self) -> Counts:
        try:
            return await self._book.settle()
        except grpc.aio.AioRpcError:
            self._book.changed.clear()
            await asyncio.sleep(PAUSE_MS / 1000)
            raise

    def _is_due(self) -> bool:
        wake_ms = self._book.wake_ms()
        return self._connected() and wake_ms is not None and wake_ms <= self._now_ms()
