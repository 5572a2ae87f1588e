"""The breaker of a method's tasks (SEMANTICS §7: CLOSED, OPEN, HALF_OPEN).

The same machine as `plait.breaker`, for counts in place of calls: the broker hands out permits, and
tells how many attempts ended how. While it is open, tasks are parked and burn no attempt; then a
few probes go through. Whether the method is well again, they say.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from plait_scheduler.domain.policy import Breaker

# Of a window.
BUCKETS = 10
# Half open for longer than this after a probe began, without its outcome, it opens again.
HALF_OPEN_MAX_MS = 10_000
# What says that a method's downstream is ill: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
# INTERNAL, UNAVAILABLE, DATA_LOSS. Other codes are the caller's fault or a conflict.
FAILURES = (2, 4, 8, 13, 14, 15)
CANCELLED = 1


class State(enum.Enum):
    """What is let through."""

    # Everything.
    CLOSED = "closed"
    # Nothing.
    OPEN = "open"
    # A few probes.
    HALF_OPEN = "half open"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How attempts of a method ended."""

    good: int = 0
    bad: int = 0
    # Those that say nothing, as cancelled ones.
    ignored: int = 0

    @classmethod
    def of(cls, codes: Sequence[int]) -> "Outcomes":
        """From counts by gRPC code."""
        bad = sum(codes[code] for code in FAILURES if code < len(codes))
        ignored = codes[CANCELLED] if len(codes) > CANCELLED else 0
        return cls(sum(codes) - bad - ignored, bad, ignored)

    def without(self, good: int, bad: int) -> "Outcomes":
        """Those that are left without some."""
        return Outcomes(max(0, self.good - good), max(0, self.bad - bad), self.ignored)


class MethodBreaker:
    """The breaker of one method, or of one worker. `now_ms` is from any monotonic origin and never
    goes back.
    """

    def __init__(self, config: Breaker, now_ms: int) -> None:
        self.config = config
        self.state = State.CLOSED
        # How often it has opened since it was closed last.
        self.openings = 0
        # When it is half open next, while it is open.
        self.open_until_ms = 0
        # When it came into its state.
        self.since_ms = now_ms
        # Calls and failures by number of the bucket.
        self._buckets: dict[int, tuple[int, int]] = {}
        self._good = self._bad = 0
        self._probing_since_ms: int | None = None

    def observe(self, now_ms: int, outcomes: Outcomes, permits: int | None = None) -> None:
        """Counts how attempts ended that began since the state changed last. `permits` are those
        that the broker has left.
        """
        self._advance(now_ms, permits)
        if self.state is State.HALF_OPEN:
            self._count_probes(now_ms, outcomes)
        elif self.state is State.CLOSED:
            self._count(now_ms, outcomes)

    def open(self, now_ms: int) -> None:
        """Opens it, whatever was counted."""
        self._open(now_ms)

    def take_over(self, now_ms: int) -> None:
        """Begins with the gate that another scheduler has set, which says that the method was ill,
        and not for how long: it is open as after a first opening.
        """
        self._open(now_ms)

    def left_open_ms(self, now_ms: int) -> int:
        """How long it stays open."""
        return max(0, self.open_until_ms - now_ms) if self.state is State.OPEN else 0

    @property
    def is_idle(self) -> bool:
        """Whether it is half open and no probe has begun."""
        return self.state is State.HALF_OPEN and self._probing_since_ms is None

    def _advance(self, now_ms: int, permits: int | None) -> None:
        if self.state is State.OPEN and now_ms >= self.open_until_ms:
            self._enter(State.HALF_OPEN, now_ms)
            self._good = self._bad = 0
            self._probing_since_ms = None
        elif self.state is State.HALF_OPEN:
            # A method without tasks has no probes to wait for.
            if self._probing_since_ms is None:
                if permits is not None and permits < self.config.half_open_probes:
                    self._probing_since_ms = now_ms
            elif now_ms >= self._probing_since_ms + HALF_OPEN_MAX_MS:
                self._open(now_ms)

    def _enter(self, state: State, now_ms: int) -> None:
        self.state, self.since_ms = state, now_ms

    def _open(self, now_ms: int) -> None:
        config = self.config
        # Doubled bit by bit, as SEMANTICS §5 grows a backoff; the cap is reached soon.
        open_ms = min(config.open_ms << min(self.openings, 40), config.open_max_ms)
        self.openings += 1
        self.open_until_ms = now_ms + open_ms
        self._enter(State.OPEN, now_ms)

    def _count_probes(self, now_ms: int, outcomes: Outcomes) -> None:
        self._good += outcomes.good
        self._bad += outcomes.bad
        probes = self.config.half_open_probes
        if self._bad and self._bad * 1000 >= self.config.failure_permille * probes:
            self._open(now_ms)
        elif self._good + self._bad >= probes:
            self._enter(State.CLOSED, now_ms)
            self.openings = 0
            self._buckets = {}

    def _count(self, now_ms: int, outcomes: Outcomes) -> None:
        width = max(1, self.config.window_ms // BUCKETS)
        current = now_ms // width
        kept = {at: each for at, each in self._buckets.items() if at > current - BUCKETS}
        calls, bad = kept.get(current, (0, 0))
        kept[current] = (calls + outcomes.good + outcomes.bad, bad + outcomes.bad)
        self._buckets = kept
        calls = sum(each[0] for each in kept.values())
        bad = sum(each[1] for each in kept.values())
        if calls >= self.config.min_calls and bad * 1000 >= self.config.failure_permille * calls:
            self._open(now_ms)
