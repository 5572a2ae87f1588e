"""What stands before the attempts of direct calls, with the clock that the state machines lack: a
limiter, a breaker and a hedge's delay for each method, a retry budget for each service."""

import asyncio
import time
from collections import deque
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from plait import _statuses, errors
from plait._attempts import HedgeDelay
from plait._gradient import Admission, Limiter, Outcome
from plait._rules import Rules
from plait._verdicts import for_breaker, for_limiter
from plait.breaker import Breaker
from plait.retry import Budget

# What a refused call is told to wait at least.
_WAIT_MS_MIN: Final = 10


class RefusedError(Exception):
    """An attempt is not sent; `error` is what the call gets where it was the first."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error)
        self.error = error


class Entry:
    """A place for one attempt. It is ended once."""

    __slots__ = ("_began", "_generation", "_guard")

    def __init__(self, guard: "Guard", generation: int) -> None:
        self._guard = guard
        self._generation = generation
        self._began = time.monotonic()

    def ended(self, code: grpc.StatusCode) -> None:
        """The attempt is over; CANCELLED: nobody waits for it any more."""
        self._guard.ended(self._generation, time.monotonic() - self._began, code)


class Guard:
    """Of one method."""

    def __init__(self, path: str, rules: Rules, budget: Budget) -> None:
        self.budget = budget
        self.delay = HedgeDelay()
        self._path = path
        self._breaker = Breaker(rules.breaker) if rules.breaker else None
        self._limiter = Limiter(rules.limiter) if rules.limiter else None
        # Those who wait for a place, in order; as many as the limiter counts.
        self._line: deque[asyncio.Future[None]] = deque()

    async def enter(self, end: float) -> Entry:
        """A place, waited for until `end`, an instant of time.monotonic(). Raises RefusedError."""
        admission = self._limiter.acquire() if self._limiter else Admission.NOW
        if admission is Admission.REFUSE:
            raise RefusedError(self._line_full())
        if admission is Admission.WAIT:
            await self._wait(end)
        return self._through_breaker()

    def enter_now(self) -> Entry | None:
        """A place, if there is one."""
        admission = self._limiter.acquire() if self._limiter else Admission.NOW
        if self._limiter is not None and admission is Admission.WAIT:
            self._limiter.leave()
        if admission is not Admission.NOW:
            return None
        try:
            return self._through_breaker()
        except RefusedError:
            return None

    def ended(self, generation: int, seconds: float, code: grpc.StatusCode) -> None:
        """An attempt is over."""
        if self._breaker is not None:
            self._breaker.report(_now_ms(), generation, for_breaker(code))
        if code is grpc.StatusCode.OK:
            self.delay.add(int(seconds * 1000))
        self._release(int(seconds * 1_000_000), for_limiter(code))

    def _through_breaker(self) -> Entry:
        if self._breaker is None:
            return Entry(self, 0)
        permit = self._breaker.acquire(_now_ms())
        if not permit.allow:
            self._release(0, Outcome.IGNORE)
            raise RefusedError(self._breaker_open(permit.retry_after_ms or 0))
        return Entry(self, permit.generation or 0)

    def _release(self, rtt_us: int, outcome: Outcome) -> None:
        if self._limiter is not None:
            for _ in range(self._limiter.release(_now_ms(), rtt_us, outcome)):
                self._line.popleft().set_result(None)

    async def _wait(self, end: float) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                # Whoever admits it finds it, also while its call is being cancelled.
                await asyncio.shield(place)
        except TimeoutError:
            self._give_up(place)
            code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            raise RefusedError(_statuses.from_parts(code, "Deadline Exceeded", b"")) from None
        except asyncio.CancelledError:
            self._give_up(place)
            raise

    def _give_up(self, place: "asyncio.Future[None]") -> None:
        if place.done():
            self._release(0, Outcome.IGNORE)
            return
        self._line.remove(place)
        if self._limiter is not None:
            self._limiter.leave()

    def _breaker_open(self, left_ms: int) -> grpc.aio.AioRpcError:
        return errors.new(
            grpc.StatusCode.UNAVAILABLE,
            errors.Reason.BREAKER_OPEN,
            f"{self._path} failed too often and is given a rest",
            {"method": self._path},
            _retry_info(left_ms),
        )

    def _line_full(self) -> grpc.aio.AioRpcError:
        assert self._limiter is not None
        limit, waiting = self._limiter.limit, self._limiter.waiting
        return errors.new(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            errors.Reason.QUEUE_FULL,
            f"{limit} calls of {self._path} may be under way, and {waiting} wait already",
            {"method": self._path, "limit": str(limit), "waiting": str(waiting)},
            _retry_info(self._limiter.usual_us // 1000),
        )


class Guards:
    """Of all methods that one channel calls."""

    def __init__(self) -> None:
        self._guards: dict[str, Guard] = {}
        self._budgets: dict[str, Budget] = {}

    def of(self, path: str, rules: Rules) -> Guard:
        """The method's, made by these rules at its first call."""
        found = self._guards.get(path)
        if found is None:
            service = path.rpartition("/")[0]
            budget = self._budgets.setdefault(service, Budget(rules.budget_tokens))
            found = self._guards[path] = Guard(path, rules, budget)
        return found


def _retry_info(ms: int) -> RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(max(_WAIT_MS_MIN, ms))
    return RetryInfo(retry_delay=delay)


def _now_ms() -> int:
    return int(time.monotonic() * 1000)
