"""The rollout loop: takes steps that are due, and takes a version back that does badly."""

from collections.abc import Callable, Mapping

from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.domain.call_load import Load
from plait_scheduler.domain.events import Figures
from plait_scheduler.domain.rollout import Rollout, State, advance, roll_back
from plait_scheduler.domain.rollout_evidence import verdict
from plait_scheduler.loops.inbox import Inbox
from plait_scheduler.loops.loop import Counts, Loop
from plait_scheduler.rollouts.book import RolloutBook


class RolloutLoop(Loop):
    """Looks whenever figures come. Times are those of the wall, since a step outlives a scheduler;
    a clock that steps makes one longer or shorter, and decides nothing else.
    """

    name = "rollout"

    def __init__(
        self,
        book: RolloutBook,
        take_loads: Callable[[], Mapping[str, Load]],
        now_ms: Callable[[], int],
    ) -> None:
        """`take_loads`: what clients reported of direct calls since it was asked for last, by
        cluster.
        """
        super().__init__()
        self._book = book
        self._take_loads = take_loads
        self._now_ms = now_ms
        self._inbox = Inbox()

    def add(self, figures: Figures) -> None:
        """Takes figures. Where too many wait, the oldest are not counted."""
        self._inbox.add(figures)

    def reset(self) -> None:
        """A new observation begins."""
        self._inbox.clear()
        self._book.reset()
        # What was reported while nobody looked is of shares that nobody knows.
        self._take_loads()
        # The broker is told what is in force, whatever happens.
        self._inbox.add(Figures(0, ()))

    async def wait(self) -> None:
        await self._inbox.wait()

    async def run_once(self) -> Counts:
        figures = self._inbox.take()
        told = await self._book.settle()
        if figures is None:
            return {"told": told}
        now_ms = self._now_ms()
        self._book.observe(now_ms, figures.splits, self._take_loads())
        counts = {"told": int(told), "steps": 0, "rolled_back": 0}
        for rollout in self._book.all():
            if rollout.state is not State.RUNNING:
                continue
            try:
                what = await self._look(rollout, now_ms)
            except VersionMismatchError:
                # Another scheduler leads; this one finds out soon.
                self._log.info("contended", service=rollout.plan.service)
                continue
            if what:
                counts[what] += 1
        return counts

    async def _look(self, rollout: Rollout, now_ms: int) -> str:
        """What was done for a rollout; "": nothing."""
        service = rollout.plan.service
        _, evidence = self._book.get(service)
        reason = verdict(evidence, rollout.plan.rollback)
        if reason:
            back = await self._book.change(service, lambda found: _back(found, now_ms, reason))
            if back.state is not State.ROLLED_BACK:
                return ""
            self._log.warning(
                "rollout.rolled_back", service=service, version=rollout.plan.to, why=reason
            )
            return "rolled_back"
        if advance(rollout, now_ms, evidence.attempts) is None:
            return ""
        await self._book.change(
            service, lambda found: advance(found, now_ms, evidence.attempts) or found
        )
        return "steps"


def _back(found: Rollout, now_ms: int, reason: str) -> Rollout:
    """Unless somebody has ended it meanwhile."""
    return roll_back(found, now_ms, reason) if found.state is State.RUNNING else found
