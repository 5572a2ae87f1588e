"""Live progress: what each stage has done, how fast, what waits and what is being retried."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table

from plait.v1 import task_pb2, task_service_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

STAGES = {
    "settlement.day": "days (Python)",
    "intake": "intake (Rust)",
    "enrichment": "enrichment (Go)",
    "ledger": "ledger (Rust)",
}
"""Queue and what to call it, in the order of the pipeline."""

RATE_WINDOW_S = 3.0
"""Rates are over this many seconds."""


@dataclass
class Stage:
    """One queue as it was last seen."""

    done: int = 0
    running: int = 0
    suspended: int = 0
    ready: int = 0
    backoff: int = 0
    failed: int = 0
    history: deque[tuple[float, int]] = field(default_factory=deque)

    def see(self, counts: Mapping[int, int], now: float) -> None:
        """Takes the counts by state of one look."""
        state = task_pb2.TaskState
        self.done = counts.get(state.TASK_STATE_SUCCEEDED, 0)
        self.running = counts.get(state.TASK_STATE_RUNNING, 0)
        self.suspended = counts.get(state.TASK_STATE_SUSPENDED, 0)
        self.ready = counts.get(state.TASK_STATE_READY, 0)
        self.backoff = counts.get(state.TASK_STATE_BACKOFF, 0)
        self.failed = counts.get(state.TASK_STATE_FAILED, 0)
        self.history.append((now, self.done))
        while now - self.history[0][0] > RATE_WINDOW_S:
            self.history.popleft()

    def rate(self) -> float:
        """Tasks done a second, lately."""
        (first, before), (last, after) = self.history[0], self.history[-1]
        return (after - before) / (last - first) if last > first else 0.0


class Progress:
    """All stages, and the events that the demo caused."""

    def __init__(self, days: int) -> None:
        self.days = days
        self.stages = {queue: Stage() for queue in STAGES}
        self.samples: list[tuple[float, dict[str, int]]] = []
        self.events: list[tuple[float, str]] = []
        self.started = time.monotonic()
        self.reachable = True
        self._seen = asyncio.Event()

    def see(self, queues: task_service_pb2.ListQueuesResponse | None) -> None:
        """Takes one look at the queues; None when the broker could not be reached."""
        now = time.monotonic() - self.started
        self.reachable = queues is not None
        if queues is None:
            return
        for queue in queues.queues:
            if stage := self.stages.get(queue.name):
                stage.see({count.state: count.count for count in queue.counts}, now)
        self._seen.set()
        self.samples.append((now, {name: stage.done for name, stage in self.stages.items()}))

    def tell(self, event: str) -> None:
        """Records something that the demo did."""
        self.events.append((time.monotonic() - self.started, event))

    def share(self) -> float:
        """Share of the days that are settled."""
        return self.stages["settlement.day"].done / max(self.days, 1)

    async def reached(self, share: float) -> None:
        """Waits until a share of the days is settled."""
        while self.share() < share:
            self._seen.clear()
            await self._seen.wait()

    def table(self) -> Table:
        """For a terminal."""
        elapsed = time.monotonic() - self.started
        away = "" if self.reachable else "  [yellow]the broker is away[/]"
        title = f"{elapsed:5.1f} s  {self.share():4.0%} of {self.days} days settled{away}"
        table = Table(title=title, title_justify="left", pad_edge=False)
        table.add_column("stage")
        for column in ("done", "per second", "running", "suspended", "ready", "retrying", "failed"):
            table.add_column(column, justify="right")
        for queue, name in STAGES.items():
            stage = self.stages[queue]
            figures = (stage.running, stage.suspended, stage.ready, stage.backoff, stage.failed)
            rate = f"{stage.rate():,.0f}" if stage.history else "0"
            table.add_row(name, f"{stage.done:,}", rate, *(f"{figure:,}" for figure in figures))
        return table

    def line(self) -> str:
        """For a log: one line."""
        stages = "  ".join(f"{queue} {stage.done:,}" for queue, stage in self.stages.items())
        away = "" if self.reachable else "  (the broker is away)"
        return f"{time.monotonic() - self.started:6.1f} s  {self.share():4.0%}  {stages}{away}"
