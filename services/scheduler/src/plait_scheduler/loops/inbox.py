"""Figures that wait for a loop that takes all of them, in their order."""

import asyncio

from plait_scheduler.domain.events import Figures

FIGURES_MAX = 64
"""Older ones are dropped: a loop that is so far behind has nothing to gain from them."""


class Inbox:
    """A queue of figures that loses the oldest rather than grow."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Figures] = asyncio.Queue(FIGURES_MAX)
        self._next: Figures | None = None

    def add(self, figures: Figures) -> None:
        """Takes figures. Where too many wait, the oldest are not counted."""
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(figures)

    def clear(self) -> None:
        """Forgets what waits."""
        self._next = None
        while not self._waiting.empty():
            self._waiting.get_nowait()

    async def wait(self) -> None:
        """Until there are some to take."""
        self._next = await self._waiting.get()

    def take(self) -> Figures | None:
        """What was waited for; None where nothing was."""
        figures, self._next = self._next, None
        return figures
