"""What the demo breaks on the way: kill -9 of workers and the broker, at shares of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from airport.demo.progress import Progress
    from airport.demo.stack import Stack

PLAN = (
    (0.15, "enrichment", "the Go worker"),
    (0.35, "ledger", "the Rust worker"),
    (0.55, "broker", "the broker"),
    (0.75, "orchestrator", "the Python worker"),
)
"""Share of the days settled, process, and what to call it."""


async def run(stack: Stack, progress: Progress, say: Callable[[str], None]) -> None:
    """Kills according to the plan, and waits for each victim to be back before the next."""
    for share, process, name in PLAN:
        await progress.reached(share)
        starts = stack.starts[process]
        pid = stack.kill(process)
        progress.tell(f"kill -9 {name}")
        say(f"kill -9 {pid}: {name}, with {progress.share():.0%} of the days settled")
        await stack.started_again(process, starts)
        say(f"{name} is being started again as process {stack.pids[process]}")
