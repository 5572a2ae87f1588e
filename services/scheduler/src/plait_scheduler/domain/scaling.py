"""How many processes of a worker there are to be: many soon, few late, and not to and fro."""

from collections.abc import Set
from dataclasses import dataclass

from plait_scheduler.domain.events import Figures

# Calm is when tasks wait for less than this part of what they may wait.
CALM_PERMILLE = 250
# Workers are full when they hold this part of what they may hold. While they are not, what waits is
# held by something else, a limit or a breaker, and more of them would not help.
FULL_PERMILLE = 800
# A growth soon after a shrinking was one too many: the next one waits twice as long, at most so
# many times longer.
PATIENCE_MAX = 8


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """What is decided by. Times are in milliseconds."""

    # The fewest and the most processes.
    least: int = 1
    most: int = 1
    # What a task may wait for a worker.
    wait_ms: int = 1_000
    # So many figures in a row say that tasks wait too long before there is one more.
    late_figures: int = 2
    # After a change, how long its effect is awaited before there are more.
    settle_ms: int = 3_000
    # Calm for so long, and there is one fewer.
    calm_ms: int = 30_000
    # What is left has room for so much more than was at work at once, in permille of itself.
    busy_permille: int = 700

    def validate(self) -> None:
        """Raises ValueError."""
        if not 0 <= self.least <= self.most or self.most < 1:
            raise ValueError(f"{self.least} to {self.most} is no number of processes")
        if self.wait_ms < 1 or self.late_figures < 1 or self.settle_ms < 0 or self.calm_ms < 1:
            raise ValueError("times and figures that scaling goes by are above 0")
        if not 0 < self.busy_permille <= 1000:
            raise ValueError(f"{self.busy_permille} permille is no share")


@dataclass(frozen=True, slots=True)
class Load:
    """What the processes have to do, in one interval."""

    # Tasks that may start, and the age of the oldest.
    ready: int = 0
    oldest_ms: int = 0
    # Tasks that run, wherever that is.
    running: int = 0
    # The workers that are attached: how many, what they can run at once, what they may hold, and
    # what they hold.
    workers: int = 0
    slots: int = 0
    window: int = 0
    in_flight: int = 0
    # Attempts that ended in the interval, and how long they took, summed.
    ended: int = 0
    busy_ms: int = 0

    @classmethod
    def of(cls, figures: Figures, queues: frozenset[str], workers: Set[str]) -> "Load":
        """What is to be done in these queues, and what these workers do."""
        found = [each for each in figures.queues if each.queue in queues]
        # What an operator holds no worker can start.
        waiting = [each for each in found if not each.paused and each.ready]
        told = [each for each in figures.workers if each.worker in workers]
        return cls(
            ready=sum(each.ready for each in waiting),
            oldest_ms=max((each.oldest_ready_ms for each in waiting), default=0),
            running=sum(each.running for each in found),
            workers=len(told),
            slots=sum(each.slots for each in told),
            window=sum(each.window for each in told),
            in_flight=sum(each.in_flight for each in told),
            ended=sum(each.ended for each in told),
            busy_ms=sum(each.busy_ms for each in told),
        )

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return self.ready > 0 or self.running > 0

    @property
    def full(self) -> bool:
        """Whether the workers have no room to speak of."""
        return self.workers > 0 and self.in_flight * 1000 >= self.window * FULL_PERMILLE

    @property
    def wait_ms(self) -> int:
        """What a task has waited or, by the time that attempts take, will wait."""
        if not self.ready:
            return 0
        latency_ms = self.busy_ms // self.ended if self.ended else 0
        ahead_ms = self.ready * latency_ms // self.slots if self.slots else 0
        return max(self.oldest_ms, ahead_ms)


class Scaler:
    """Decides for one worker. `now_ms` is from any monotonic origin and never goes back."""

    def __init__(self, config: ScalingConfig) -> None:
        config.validate()
        self.config = config
        self._late = 0
        self._calm_since_ms: int | None = None
        # The most attempts at once while it was calm.
        self._peak = 0
        self._changed_ms: int | None = None
        self._shrunk_ms: int | None = None
        self._patience = 1

    def decide(self, now_ms: int, processes: int, load: Load) -> int:
        """How many processes there are to be, of which there are so many now."""
        config = self.config
        if processes < config.least:
            return config.least
        if processes > config.most:
            return config.most
        if processes == 0:
            return 1 if load.active else 0
        if load.full and load.wait_ms > config.wait_ms:
            return self._grown(now_ms, processes, load)
        self._late = 0
        if load.full and load.wait_ms * 1000 > config.wait_ms * CALM_PERMILLE:
            self._calm_since_ms = None
            return processes
        return self._shrunk(now_ms, processes, load)

    def _grown(self, now_ms: int, processes: int, load: Load) -> int:
        """Twice as many where tasks wait far too long, else a quarter more."""
        config = self.config
        self._calm_since_ms = None
        self._late += 1
        settled = self._changed_ms is None or now_ms - self._changed_ms >= config.settle_ms
        if self._late < config.late_figures or not settled or processes >= config.most:
            return processes
        far = load.wait_ms >= 2 * config.wait_ms
        more = processes if far else max(1, processes // 4)
        self._learn(now_ms)
        self._late, self._changed_ms = 0, now_ms
        return min(config.most, processes + more)

    def _learn(self, now_ms: int) -> None:
        """Whether the last shrinking was one too many."""
        if self._shrunk_ms is None:
            return
        soon = now_ms - self._shrunk_ms < 2 * self.config.calm_ms
        self._patience = min(2 * self._patience, PATIENCE_MAX) if soon else 1
        self._shrunk_ms = None

    def _shrunk(self, now_ms: int, processes: int, load: Load) -> int:
        """One fewer, if it was calm for long and the others have room for all that there was."""
        config = self.config
        if self._calm_since_ms is None:
            self._calm_since_ms, self._peak = now_ms, 0
        self._peak = max(self._peak, load.in_flight, load.running and 1, load.ended and 1)
        if now_ms - self._calm_since_ms < config.calm_ms * self._patience:
            return processes
        self._calm_since_ms, peak = None, self._peak
        if processes <= config.least:
            return processes
        if processes == 1:
            return 0 if peak == 0 else 1
        left = load.slots * (processes - 1) // max(1, load.workers)
        if peak * 1000 > left * config.busy_permille:
            return processes
        self._changed_ms = self._shrunk_ms = now_ms
        return processes - 1
