"""The circuit breaker of calls (SEMANTICS: CLOSED, OPEN, HALF_OPEN) as a pure state machine.

It reads no clock and has no timer: `now_ms` is an argument, from any monotonic origin, and changes
of state happen
inside `acquire` and `report` only. One breaker serves one target and method group.
"""

from dataclasses import dataclass
from enum import StrEnum

from plait._growth import grow


class State(StrEnum):
    """What a breaker lets through."""

    CLOSED = "CLOSED"
    """Everything."""
    OPEN = "OPEN"
    """Nothing."""
    HALF_OPEN = "HALF_OPEN"
    """A few probes."""


class Outcome(StrEnum):
    """How a call ended, as a breaker counts it."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORE = "ignore"
    """Not counted, as when the caller itself cancelled; gives a probe's permit back."""


@dataclass(frozen=True, slots=True)
class Config:
    """When a breaker opens and for how long."""

    window_ms: int = 10_000
    """The sliding window in which calls are counted."""
    buckets: int = 10
    """Slices of the window."""
    min_calls: int = 20
    """With fewer calls in the window it never opens."""
    failure_permille: int = 500
    """The share of failures that opens it."""
    open_ms: int = 5_000
    """The first open time; doubles with each opening in a row."""
    open_max_ms: int = 60_000
    """The longest open time."""
    half_open_probes: int = 3
    """Permits out at once while half open."""
    half_open_max_ms: int = 10_000
    """Half open for longer opens it again, so that a stuck probe does not wedge it."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The answer to `acquire`."""

    allow: bool
    """Whether the call may be made."""
    state: State
    """The breaker's state."""
    generation: int | None = None
    """To be given to `report`; None when the call is refused."""
    retry_after_ms: int | None = None
    """How long it stays open, when the call is refused; 0 while its probes are out."""


class Breaker:
    """One breaker."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self.state = State.CLOSED
        self._generation = 0
        self._openings = 0
        # Calls and failures by number of the bucket.
        self._buckets: dict[int, list[int]] = {}
        self._open_until = 0
        self._half_open_at = 0
        self._probes = self._good = self._bad = 0

    def acquire(self, now_ms: int) -> Permit:
        """Asks for permission to make a call. Every permit that is allowed must be reported."""
        self._advance(now_ms)
        if self.state is State.OPEN:
            return Permit(False, self.state, retry_after_ms=self._open_until - now_ms)
        if self.state is State.HALF_OPEN:
            if self._probes >= self._config.half_open_probes:
                return Permit(False, self.state, retry_after_ms=0)
            self._probes += 1
        return Permit(True, self.state, generation=self._generation)

    def report(self, now_ms: int, generation: int, outcome: Outcome) -> bool:
        """Tells how a call ended; answers whether it counted. A permit of another generation
        changes nothing."""
        self._advance(now_ms)
        if generation != self._generation or self.state is State.OPEN:
            return False
        if outcome is Outcome.IGNORE:
            if self.state is State.HALF_OPEN:
                self._probes -= 1
            return False
        if self.state is State.HALF_OPEN:
            self._count_probe(now_ms, outcome)
        else:
            self._count_call(now_ms, outcome)
        return True

    def _advance(self, now_ms: int) -> None:
        if self.state is State.OPEN and now_ms >= self._open_until:
            self.state = State.HALF_OPEN
            self._generation += 1
            self._half_open_at = now_ms
            self._probes = self._good = self._bad = 0
        elif (
            self.state is State.HALF_OPEN
            and now_ms >= self._half_open_at + self._config.half_open_max_ms
        ):
            self._open(now_ms)

    def _open(self, now_ms: int) -> None:
        config = self._config
        self.state = State.OPEN
        self._generation += 1
        self._open_until = now_ms + grow(config.open_ms, 2000, self._openings, config.open_max_ms)
        self._openings += 1

    def _close(self) -> None:
        self.state = State.CLOSED
        self._generation += 1
        self._openings = 0
        self._buckets = {}

    def _count_probe(self, now_ms: int, outcome: Outcome) -> None:
        if outcome is Outcome.FAILURE:
            self._bad += 1
        else:
            self._good += 1
        probes = self._config.half_open_probes
        if self._bad and self._bad * 1000 >= self._config.failure_permille * probes:
            self._open(now_ms)
        elif self._good + self._bad == probes:
            self._close()

    def _count_call(self, now_ms: int, outcome: Outcome) -> None:
        config = self._config
        current = now_ms // (config.window_ms // config.buckets)
        oldest = current - config.buckets + 1
        self._buckets = {at: counts for at, counts in self._buckets.items() if at >= oldest}
        bucket = self._buckets.setdefault(current, [0, 0])
        bucket[0] += 1
        bucket[1] += outcome is Outcome.FAILURE
        calls = sum(counts[0] for counts in self._buckets.values())
        failures = sum(counts[1] for counts in self._buckets.values())
        if calls >= config.min_calls and failures * 1000 >= config.failure_permille * calls:
            self._open(now_ms)
