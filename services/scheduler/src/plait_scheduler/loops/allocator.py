"""The allocator loop: turns the figures of each interval into windows, and sets what changes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from plait_scheduler.broker.control import Control
from plait_scheduler.domain.allocator import AllocatorConfig, WorkerLoad, WorkerTrack, allocate
from plait_scheduler.domain.events import Figures
from plait_scheduler.loops.loop import Counts, Loop


@dataclass(frozen=True, slots=True)
class AllocatorLoopConfig:
    """What the loop needs to know."""

    # What it decides by.
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)

    def validate(self) -> None:
        """Raises ValueError."""
        self.allocator.validate()


class AllocatorLoop(Loop):
    """Always works on the newest figures: those that it was too late for are of no use."""

    name = "allocator"

    def __init__(
        self, config: AllocatorLoopConfig, control: Control, group_of: Callable[[str], str]
    ) -> None:
        """`group_of` names the group of a worker: those that can take one another's work."""
        config.validate()
        super().__init__()
        self._config = config
        self._control = control
        self._group_of = group_of
        self._tracks: Mapping[str, WorkerTrack] = {}
        self._newest: Figures | None = None
        self._arrived = asyncio.Event()

    def add(self, figures: Figures) -> None:
        """Takes figures in place of those that still wait."""
        self._newest = figures
        self._arrived.set()

    def reset(self) -> None:
        """A new observation begins. What is known of workers is kept: those that are gone drop out
        by themselves.
        """
        self._newest = None
        self._arrived.clear()

    async def wait(self) -> None:
        await self._arrived.wait()

    async def run_once(self) -> Counts:
        figures, self._newest = self._newest, None
        self._arrived.clear()
        if figures is None or figures.interval_ms <= 0:
            return {}
        loads = [WorkerLoad(worker, self._group_of(worker.worker)) for worker in figures.workers]
        allocation = allocate(self._config.allocator, self._tracks, loads, figures.interval_ms)
        self._tracks = allocation.tracks
        if not allocation.windows:
            return {}
        unknown = await self._control.set_windows(allocation.windows)
        for worker in figures.workers:
            if worker.worker in allocation.windows:
                self._log.debug(
                    "window",
                    worker=worker.worker,
                    before=worker.window,
                    window=allocation.windows[worker.worker],
                )
        return {"windows": len(allocation.windows) - len(unknown), "gone": len(unknown)}
