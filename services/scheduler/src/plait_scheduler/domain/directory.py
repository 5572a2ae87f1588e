"""Who serves what: the workers that are attached now, as they were observed."""

from dataclasses import dataclass, replace

from plait_scheduler.domain.events import (
    Event,
    Figures,
    WorkerAttached,
    WorkerDetached,
    WorkerFigures,
)
from plait_scheduler.domain.routes import method_of


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """An attached worker."""

    # What it said of itself.
    attached: WorkerAttached
    # When it was first seen, in milliseconds since 1970.
    seen_ms: int
    # Its last figures; None before the first.
    figures: WorkerFigures | None = None
    # Attempts that ended well since it was first seen.
    succeeded: int = 0
    # Attempts that failed since it was first seen.
    failed: int = 0

    @property
    def slots(self) -> int:
        """Attempts that it can run at once, as it last said."""
        return self.figures.slots if self.figures else self.attached.slots


class Directory:
    """The workers by id. Lost with the process and rebuilt from what the broker tells an observer
    first.
    """

    def __init__(self) -> None:
        self._workers: dict[str, WorkerEntry] = {}
        self._before: dict[str, WorkerEntry] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def reset(self) -> None:
        """A new observation begins: who is attached is told anew. What is known of those that come
        back is kept.
        """
        self._before = {**self._before, **self._workers}
        self._workers = {}

    def apply(self, event: Event, now_ms: int) -> None:
        """Takes in what happened."""
        match event:
            case WorkerAttached():
                # One that begins to drain is told again, without its endpoint.
                known = self._workers.get(event.worker) or self._before.get(event.worker)
                entry = WorkerEntry(event, now_ms)
                self._workers[event.worker] = replace(known, attached=event) if known else entry
            case WorkerDetached():
                self._workers.pop(event.worker, None)
            case Figures(early=True):
                pass
            case Figures():
                # Those that have not come back by the first figures will not.
                self._before = {}
                for figures in event.workers:
                    self._count(figures)
            case _:
                pass

    def workers(self, method: str = "") -> list[WorkerEntry]:
        """The workers that serve a method, or all, by name and id."""
        found = [
            entry
            for entry in self._workers.values()
            if not method or method in map(method_of, entry.attached.methods)
        ]
        return sorted(found, key=lambda entry: (entry.attached.name, entry.attached.worker))

    def contracts_of(self, service: str) -> list[tuple[str, ...]]:
        """For each worker of a service, the digests of the contracts that it announced."""
        prefix = f"/{service}/"
        attached = (entry.attached for entry in self._workers.values())
        return [
            each.contracts
            for each in attached
            if any(route.startswith(prefix) for route in each.methods)
        ]

    def group_of(self, worker: str) -> str:
        """Names what a worker serves: the same for those that can take one another's work."""
        entry = self._workers.get(worker)
        return "\n".join(sorted(entry.attached.methods)) if entry else worker

    def _count(self, figures: WorkerFigures) -> None:
        entry = self._workers.get(figures.worker)
        if entry is None:
            return
        self._workers[figures.worker] = replace(
            entry,
            figures=figures,
            succeeded=entry.succeeded + figures.succeeded,
            failed=entry.failed + figures.failed,
        )
