"""The attempts of one direct call, as pure state machines: one after the other, or beside each
other. The numbers are whole milliseconds; time and randomness are arguments."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import grpc

from plait._verdicts import CANDIDATES, Verdict, verdict
from plait.retry import Backoff, Budget

# Of a method that may be hedged.
HEDGED_ATTEMPTS: Final = 2
HEDGE_DELAY_MS_MIN: Final = 10
_LATEST: Final = 100
_LATEST_MIN: Final = 20
_PERMILLE: Final = 950

_NEVER: Final[frozenset[grpc.StatusCode]] = frozenset()


@dataclass(frozen=True, slots=True)
class Next:
    """What comes after an attempt."""

    # The number of the next attempt; None: it ends.
    send: int | None = None
    # When to send it.
    at_ms: int = 0
    # Of an end: it was a failure to retry, and nobody above is to.
    stop_above: bool = False


class Retry:
    """One attempt after the other."""

    def __init__(
        self,
        budget: Budget,
        *,
        max_attempts: int,
        end_ms: int,
        idempotent: bool = False,
        backoff: Backoff | None = None,
        never: frozenset[grpc.StatusCode] = _NEVER,
    ) -> None:
        """`end_ms` is the call's deadline; `never` are codes that the contract has not retried."""
        self._budget = budget
        self._max = max_attempts
        self._end_ms = end_ms
        self._idempotent = idempotent
        self._backoff = backoff or Backoff()
        self._never = never
        self._attempt = 1
        # Attempts since the backoff began.
        self._step = 1

    def status(
        self, now_ms: int, code: grpc.StatusCode, pushback_ms: int | None, rnd_ppm: int
    ) -> Next:
        """What comes after the attempt that ended like this."""
        found = _judged(code, self._idempotent, pushback_ms, self._never)
        _pay(self._budget, code, found)
        end = Next(stop_above=found.costs)
        if not found.retry or self._attempt >= self._max or not self._budget.may_retry():
            return end
        self._step = self._step + 1 if pushback_ms is None else 1
        wait_ms = self._backoff.delay_ms(self._step, rnd_ppm, pushback_ms)
        if wait_ms >= self._end_ms - now_ms:
            return end
        self._attempt += 1
        return Next(self._attempt, now_ms + wait_ms)


@dataclass(frozen=True, slots=True)
class End:
    """How a hedged call ends."""

    # The attempt whose status it has; 0: none, since the deadline passed.
    attempt: int
    code: grpc.StatusCode
    stop_above: bool


@dataclass(frozen=True, slots=True)
class Move:
    """What to do now."""

    send: int | None = None
    # When to say `wake`; None: not any more.
    wake_ms: int | None = None
    cancel: list[int] = field(default_factory=list)
    end: End | None = None


class Hedge:
    """Attempts beside each other. Only for methods that may be done twice."""

    def __init__(
        self,
        budget: Budget,
        *,
        delay_ms: int,
        end_ms: int,
        max_attempts: int = HEDGED_ATTEMPTS,
        never: frozenset[grpc.StatusCode] = _NEVER,
    ) -> None:
        """`delay_ms` is the time from one attempt to the next, `end_ms` the call's deadline."""
        self._budget = budget
        self._delay_ms = delay_ms
        self._end_ms = end_ms
        self._max = max_attempts
        self._never = never
        self._sent = 0
        self._open: list[int] = []
        self._next_ms: int | None = None
        self._stopped = False
        self._ended = False
        self._last = End(0, grpc.StatusCode.DEADLINE_EXCEEDED, True)

    def start(self, now_ms: int) -> Move:
        """The first attempt."""
        return self._send(now_ms)

    def wake(self, now_ms: int) -> Move:
        """So late is it."""
        if not self._ended and now_ms >= self._end_ms:
            return self._finish(End(0, grpc.StatusCode.DEADLINE_EXCEEDED, True))
        if not self._ended and self._next_ms is not None and now_ms >= self._next_ms:
            return self._another(now_ms)
        return self._move()

    def refused(self, attempt: int) -> Move:
        """An attempt after the first could not be sent; no other one is."""
        if attempt not in self._open:
            return self._move()
        self._open.remove(attempt)
        return self._no_more()

    def status(
        self, now_ms: int, attempt: int, code: grpc.StatusCode, pushback_ms: int | None
    ) -> Move:
        """An attempt ended. What comes of one that was cancelled changes nothing."""
        if attempt not in self._open:
            return self._move()
        self._open.remove(attempt)
        found = _judged(code, True, pushback_ms, self._never)
        _pay(self._budget, code, found)
        if not found.retry and not _merely_stopped(code, pushback_ms, self._never):
            return self._finish(End(attempt, code, found.costs))
        self._last = End(attempt, code, True)
        if not found.retry:
            self._stopped, self._next_ms = True, None
        elif pushback_ms is not None:
            self._plan(now_ms + pushback_ms)
        elif not self._stopped and self._sent < self._max:
            return self._another(now_ms)
        if self._open or self._next_ms is not None:
            return self._move()
        return self._finish(self._last)

    def _another(self, now_ms: int) -> Move:
        if now_ms < self._end_ms and self._budget.may_retry():
            return self._send(now_ms)
        # A refusal is for good.
        return self._no_more()

    def _no_more(self) -> Move:
        self._stopped, self._next_ms = True, None
        return self._move() if self._open else self._finish(self._last)

    def _send(self, now_ms: int) -> Move:
        self._sent += 1
        self._open.append(self._sent)
        self._plan(now_ms + self._delay_ms)
        return self._move(send=self._sent)

    def _plan(self, at_ms: int) -> None:
        more = self._sent < self._max and not self._stopped
        self._next_ms = at_ms if more and at_ms < self._end_ms else None

    def _finish(self, end: End) -> Move:
        cancel, self._open, self._next_ms, self._ended = self._open, [], None, True
        return Move(cancel=cancel, end=end)

    def _move(self, send: int | None = None) -> Move:
        if self._ended:
            return Move()
        return Move(send, self._end_ms if self._next_ms is None else self._next_ms)


class HedgeDelay:
    """The time by which most of a method's latest calls were answered."""

    def __init__(
        self,
        samples: int = _LATEST,
        samples_min: int = _LATEST_MIN,
        permille: int = _PERMILLE,
        delay_ms_min: int = HEDGE_DELAY_MS_MIN,
    ) -> None:
        """The `permille` share of the latest `samples`, by the nearest rank."""
        self._latest: deque[int] = deque(maxlen=samples)
        self._samples_min = samples_min
        self._permille = permille
        self._delay_ms_min = delay_ms_min

    def add(self, latency_ms: int) -> None:
        """A call was answered."""
        self._latest.append(latency_ms)

    @property
    def delay_ms(self) -> int | None:
        """How long to wait before a hedge; None: too little is known."""
        count = len(self._latest)
        if count < self._samples_min:
            return None
        rank = -(-count * self._permille // 1000)
        return max(self._delay_ms_min, sorted(self._latest)[rank - 1])


def _judged(
    code: grpc.StatusCode,
    idempotent: bool,
    pushback_ms: int | None,
    never: frozenset[grpc.StatusCode],
) -> Verdict:
    found = verdict(code, idempotent, pushback_ms)
    if code not in never:
        return found
    return Verdict(False, found.costs and pushback_ms is not None and pushback_ms < 0)


def _pay(budget: Budget, code: grpc.StatusCode, found: Verdict) -> None:
    if code is grpc.StatusCode.OK:
        budget.success()
    elif found.costs:
        budget.failure()


def _merely_stopped(
    code: grpc.StatusCode, pushback_ms: int | None, never: frozenset[grpc.StatusCode]
) -> bool:
    """Whether only its pushback kept it from being sent again."""
    stop = pushback_ms is not None and pushback_ms < 0
    return stop and code in CANDIDATES and code not in never
