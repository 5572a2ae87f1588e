"""The breaker loop: parks the tasks of methods that fail, closes off workers that are ill, and lets
probes through.
"""

from collections.abc import Callable

from plait_scheduler.broker.control import Control
from plait_scheduler.broker.policy_book import PolicyBook
from plait_scheduler.domain.breaker import State
from plait_scheduler.domain.events import Figures
from plait_scheduler.domain.gates import Change, Gates
from plait_scheduler.domain.worker_gates import WorkerGates
from plait_scheduler.loops.inbox import Inbox
from plait_scheduler.loops.loop import Counts, Loop


class BreakerLoop(Loop):
    """Counts every outcome once, so it takes all figures, in their order."""

    name = "breaker"

    def __init__(
        self,
        control: Control,
        policies: PolicyBook,
        group_of: Callable[[str], str],
        monotonic_ms: Callable[[], int],
    ) -> None:
        """`group_of` names the group of a worker: those that can take one another's work."""
        super().__init__()
        self._group_of = group_of
        self._monotonic_ms = monotonic_ms
        self._control = control
        self._policies = policies
        self.gates = Gates()
        self.workers = WorkerGates()
        self._inbox = Inbox()

    def add(self, figures: Figures) -> None:
        """Takes figures. Where too many wait, the oldest are not counted."""
        self._inbox.add(figures)

    def reset(self) -> None:
        """A new observation begins; what is known of methods is kept."""
        self._inbox.clear()
        self._policies.forget()
        self.gates.reset()
        self.workers.reset()

    def begin(self) -> None:
        """A new term begins: what was known of methods was another leader's to change."""
        self.reset()
        self.gates.clear()
        self.workers.clear()

    async def wait(self) -> None:
        await self._inbox.wait()

    async def run_once(self) -> Counts:
        figures = self._inbox.take()
        if figures is None:
            return {}
        policies = {}
        for method in {*(each.method for each in figures.methods), *self.gates.breakers()}:
            policy = await self._policies.of(method)
            policies[method] = policy.breaker if policy else None
        now_ms = self._monotonic_ms()
        # Workers first: what fails at one of them only is not its methods' fault.
        changes = self.workers.observe(now_ms, figures.workers, self._group_of, early=figures.early)
        for change in changes:
            self._tell("worker.", change, worker=change.name)
        excluded = self.workers.excluded(figures.workers)
        for change in self.gates.observe(now_ms, figures.methods, policies, excluded):
            self._tell("breaker.", change, method=change.name)
        return await self._set(now_ms, figures)

    async def _set(self, now_ms: int, figures: Figures) -> Counts:
        of_workers = self.workers.wanted(now_ms, figures.workers)
        if of_workers:
            await self._control.set_worker_gates(of_workers)
            self.workers.told(of_workers)
        wanted = self.gates.wanted(now_ms, figures.methods)
        if wanted:
            await self._control.set_gates(wanted)
            self.gates.told(wanted)
        return {"gates": len(wanted), "worker_gates": len(of_workers)}

    def _tell(self, prefix: str, change: Change, **of: str) -> None:
        state = change.state.name.lower()
        log = self._log.warning if change.state is State.OPEN else self._log.info
        log(f"{prefix}{state}", ms=change.open_ms, **of)
        # Here and not in the answer, which is lost where the broker does not take the gates.
        self.tally.done[f"{prefix.replace('.', '_')}{state}".removeprefix("breaker_")] += 1
