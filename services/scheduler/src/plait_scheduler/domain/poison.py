"""Which tasks may be what ends their workers."""

from collections.abc import Iterable

# Tasks that are remembered of one worker; those that were met longest ago go.
TASKS_MAX = 1_000
SUSPECTS_MAX = 10
# One death may be anything's.
DEATHS_MIN = 2


class Suspicion:
    """The tasks that were under way when processes of one worker died."""

    def __init__(self) -> None:
        self._deaths: dict[str, int] = {}

    def died(self, tasks: Iterable[str]) -> list[str]:
        """A process died with these tasks under way. Returns those that are suspects from now on,
        which is worth telling once.
        """
        begun = []
        for task in tasks:
            deaths = self._deaths.pop(task, 0) + 1
            self._deaths[task] = deaths
            if deaths == DEATHS_MIN:
                begun.append(task)
        while len(self._deaths) > TASKS_MAX:
            del self._deaths[next(iter(self._deaths))]
        return begun

    def suspects(self) -> list[str]:
        """Tasks that were under way at more than one death, those of most deaths first."""
        found = [(-deaths, task) for task, deaths in self._deaths.items() if deaths >= DEATHS_MIN]
        return [task for _, task in sorted(found)[:SUSPECTS_MAX]]
