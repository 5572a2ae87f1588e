"""The limiter of direct calls as a pure state machine: time is an argument, and the line of those
who wait is a number, which the channel gives places to."""

from enum import StrEnum

from plait.limiter import Config


class Admission(StrEnum):
    """What becomes of a call that asks."""

    NOW = "now"
    """It may be sent."""
    WAIT = "wait"
    """It waits; `release` says when it may be sent."""
    REFUSE = "refuse"
    """The line is full."""


class Outcome(StrEnum):
    """How a call ended, as the limiter counts it."""

    OK = "ok"
    """It was answered; its time is a sample."""
    DROP = "drop"
    """The worker is overloaded or too late."""
    IGNORE = "ignore"
    """Not counted, as when nobody was reached or the caller cancelled."""


class Gradient:
    """The limit alone, fed with one sample a window. Doubles, in the order of the vectors."""

    def __init__(self, config: Config) -> None:
        """Begins at `config.initial`."""
        self._config = config
        self._exact = float(config.initial)
        self._samples = 0
        self._sum_us = 0.0
        self._long_us = 0.0

    @property
    def limit(self) -> int:
        """Calls that may be under way."""
        return int(self._exact)

    @property
    def usual_us(self) -> int:
        """What calls take on average, in microseconds; 0 before the first sample."""
        return int(self._long_us)

    def sample(self, rtt_us: int, inflight: int, dropped: bool = False) -> int:
        """The limit after a window with this mean time, this many calls under way at most, and
        perhaps a drop."""
        config = self._config
        if dropped:
            self._exact = max(float(config.min), self._exact * 0.9)
            return self.limit
        self._remember(rtt_us)
        long_us = self._long_us
        if long_us / rtt_us > 2:
            self._long_us *= 0.95
        if inflight >= self._exact / 2:
            gradient = config.tolerance_permille / 1000 * long_us / rtt_us
            gradient = max(0.5, min(1.0, gradient))
            smoothing = config.smoothing_permille / 1000
            target = self._exact * gradient + config.queue
            target = self._exact * (1 - smoothing) + target * smoothing
            self._exact = max(float(config.min), min(float(config.max), target))
        return self.limit

    def _remember(self, rtt_us: int) -> None:
        if self._samples < self._config.warmup:
            self._samples += 1
            self._sum_us += rtt_us
            self._long_us = self._sum_us / self._samples
        else:
            weight = 2.0 / (self._config.long_window + 1)
            self._long_us = self._long_us * (1 - weight) + rtt_us * weight


class Limiter:
    """Who may call, who waits, and the windows that the limit learns from."""

    def __init__(self, config: Config | None = None) -> None:
        """With the default Config unless another is given."""
        self._config = config or Config()
        self._gradient = Gradient(self._config)
        self.inflight = 0
        self.waiting = 0
        self._most = 0
        self._begin_ms: int | None = None
        self._sum_us = self._answered = self._dropped = 0

    @property
    def limit(self) -> int:
        """Calls that may be under way."""
        return self._gradient.limit

    @property
    def usual_us(self) -> int:
        """What calls take on average, in microseconds; 0 before the first window has ended."""
        return self._gradient.usual_us

    def acquire(self) -> Admission:
        """Asks for a place. After WAIT, `release` counts it in, or `leave` takes it out."""
        if not self.waiting and self.inflight < self.limit:
            self._enter()
            return Admission.NOW
        if self.waiting >= self._config.waiting_max:
            return Admission.REFUSE
        self.waiting += 1
        return Admission.WAIT

    def leave(self) -> None:
        """Somebody gave up waiting."""
        self.waiting -= 1

    def release(self, now_ms: int, rtt_us: int, outcome: Outcome) -> int:
        """A call ended. Answers how many of those that wait may be sent now."""
        self.inflight -= 1
        if outcome is not Outcome.IGNORE:
            self._count(now_ms, rtt_us, outcome)
        admitted = 0
        while self.waiting and self.inflight < self.limit:
            self.waiting -= 1
            admitted += 1
            self._enter()
        return admitted

    def _enter(self) -> None:
        self.inflight += 1
        self._most = max(self._most, self.inflight)

    def _count(self, now_ms: int, rtt_us: int, outcome: Outcome) -> None:
        if self._begin_ms is None:
            self._begin_ms = now_ms
        if outcome is Outcome.OK:
            self._sum_us += max(1, rtt_us)
            self._answered += 1
        else:
            self._dropped += 1
        config = self._config
        counted = self._answered + self._dropped
        if now_ms - self._begin_ms < config.window_ms or counted < config.window_calls:
            return
        mean = self._sum_us // self._answered if self._answered else 0
        self._gradient.sample(mean, self._most, self._dropped > 0)
        self._begin_ms, self._most = now_ms, self.inflight
        self._sum_us = self._answered = self._dropped = 0
