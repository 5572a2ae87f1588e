"""The breaker loop: parks the tasks of methods that fail, and lets probes through."""

import asyncio
from collections.abc import Callable

from plait_scheduler.broker.control import Control
from plait_scheduler.broker.policy_book import PolicyBook
from plait_scheduler.domain.breaker import State
from plait_scheduler.domain.events import Figures
from plait_scheduler.domain.gates import Gates
from plait_scheduler.loops.loop import Counts, Loop

# Figures that wait here; older ones are dropped.
INBOX_MAX = 64


class BreakerLoop(Loop):
    """Counts every outcome once, so it takes all figures, in their order."""

    name = "breaker"

    def __init__(
        self, control: Control, policies: PolicyBook, monotonic_ms: Callable[[], int]
    ) -> None:
        super().__init__()
        self._monotonic_ms = monotonic_ms
        self._control = control
        self._policies = policies
        self.gates = Gates()
        self._inbox: asyncio.Queue[Figures] = asyncio.Queue(INBOX_MAX)
        self._next: Figures | None = None

    def add(self, figures: Figures) -> None:
        """Takes figures. Where too many wait, the oldest are not counted."""
        if self._inbox.full():
            self._inbox.get_nowait()
        self._inbox.put_nowait(figures)

    def reset(self) -> None:
        """A new observation begins; what is known of methods is kept."""
        self._next = None
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._policies.forget()
        self.gates.reset()

    def begin(self) -> None:
        """A new term begins: what was known of methods was another leader's to change."""
        self.reset()
        self.gates.clear()

    async def wait(self) -> None:
        self._next = await self._inbox.get()

    async def run_once(self) -> Counts:
        figures, self._next = self._next, None
        if figures is None:
            return {}
        policies = {}
        for method in {*(each.method for each in figures.methods), *self.gates.breakers()}:
            policy = await self._policies.of(method)
            policies[method] = policy.breaker if policy else None
        now_ms = self._monotonic_ms()
        for change in self.gates.observe(now_ms, figures.methods, policies):
            log = self._log.warning if change.state is State.OPEN else self._log.info
            log(f"breaker.{change.state.name.lower()}", method=change.method, ms=change.open_ms)
            # Here and not in the answer, which is lost where the broker does not take the gates.
            self.tally.done[change.state.name.lower()] += 1
        wanted = self.gates.wanted(now_ms, figures.methods)
        if not wanted:
            return {}
        await self._control.set_gates(wanted)
        self.gates.told(wanted)
        return {"gates": len(wanted)}
