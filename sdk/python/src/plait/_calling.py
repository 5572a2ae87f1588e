"""One direct call under way: its attempts, and which of them it is."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import grpc

from plait import _marks, _spans, _statuses, deadline, errors
from plait._attempts import Hedge, Move, Retry
from plait._guards import Entry, Guard, RefusedError
from plait._rules import Rules

R = TypeVar("R")

PREVIOUS_KEY: Final = "grpc-previous-rpc-attempts"
_POLICY: Final = deadline.Policy()
# Timeouts below the first, in steps of the second, in milliseconds.
_STEPS: Final = ((1_000, 1), (10_000, 10), (100_000, 100))
# C-core's clock may be so far behind, in seconds (measured with 1.85.1).
_CLOCK_S: Final = 0.03

Metadata = tuple[tuple[str, str | bytes], ...]
# Sends one attempt, with a timeout in seconds.
Send = Callable[[float, Metadata], "grpc.aio.UnaryUnaryCall[Any, R]"]


@dataclass(slots=True)
class Ended(Generic[R]):
    """An attempt that is over."""

    call: "grpc.aio.UnaryUnaryCall[Any, R]"
    code: grpc.StatusCode
    # When.
    now_ms: int
    answer: R | None = None
    error: grpc.aio.AioRpcError | None = None
    # What the worker said of trying again.
    pushback_ms: int | None = None


class Calling(Generic[R]):
    """The attempts of a call, whose deadline is `end`, an instant of time.monotonic()."""

    def __init__(
        self, guard: Guard, rules: Rules, send: "Send[R]", end: float, span: _spans.CallSpan | None
    ) -> None:
        self._guard = guard
        self._rules = rules
        self._send = send
        self.end = end
        self._span = span
        # The attempt that decides; before that, the latest.
        self.call: grpc.aio.UnaryUnaryCall[Any, R] | None = None
        # Set when an attempt is sent.
        self.sent = asyncio.Event()

    async def run(self) -> R:
        """The answer. Raises AioRpcError: the last attempt's, or that of a refusal by us."""
        entry = await self._first()
        rules = self._rules
        delay_ms = rules.hedge_delay_ms or self._guard.delay.delay_ms
        if rules.hedge and rules.idempotent and rules.max_attempts > 1 and delay_ms is not None:
            ended = await _Hedging(self, entry, delay_ms).run()
        else:
            ended = await self._one_by_one(entry)
        self.call = ended.call
        if ended.error is not None:
            raise ended.error
        return cast("R", ended.answer)

    async def _first(self) -> Entry:
        try:
            return await self._guard.enter(self.end)
        except RefusedError as refused:
            # Nobody above is to try what would be refused again.
            _marks.stop_above()
            raise refused.error from None

    async def _one_by_one(self, entry: Entry) -> "Ended[R]":
        rules = self._rules
        retry = Retry(
            self._guard.budget,
            max_attempts=rules.max_attempts,
            end_ms=int(self.end * 1000),
            idempotent=rules.idempotent,
            never=rules.never,
        )
        ended = await self.attempt(entry, 1)
        while True:
            found = retry.status(
                ended.now_ms, ended.code, ended.pushback_ms, random.randrange(1_000_000)
            )
            if found.stop_above and found.send is None:
                _marks.stop_above()
            if found.send is None:
                return ended
            await asyncio.sleep(max(0.0, found.at_ms / 1000 - time.monotonic()))
            try:
                entry = await self._guard.enter(self.end)
                ended = await self.attempt(entry, found.send)
            except (RefusedError, grpc.aio.AioRpcError):
                # It was not sent, so what the worker said last stands.
                _marks.stop_above()
                return ended

    async def attempt(self, entry: Entry, number: int) -> "Ended[R]":
        """Sends one and waits for its end."""
        code, call, until = grpc.StatusCode.CANCELLED, None, self.end
        try:
            left_ms = int((self.end - time.monotonic()) * 1000)
            timeout = on_the_wire(worth_it(left_ms)) / 1000
            until = time.monotonic() + timeout
            more: Metadata = ((PREVIOUS_KEY, str(number - 1)),) if number > 1 else ()
            if self._span is not None and number > 1:
                self._span.attempt(number)
            self.call = call = self._send(timeout, more)
            self.sent.set()
            answer = await call
            code = grpc.StatusCode.OK
            return Ended(call, code, _now_ms(), answer)
        except grpc.aio.AioRpcError as error:
            if call is None:
                # Its time was over before it was sent, which says nothing of the worker.
                raise
            code = error.code()
            return await self._failed(call, error, until)
        finally:
            entry.ended(code)
            if call is not None:
                call.cancel()

    async def _failed(
        self, call: "grpc.aio.UnaryUnaryCall[Any, R]", error: grpc.aio.AioRpcError, until: float
    ) -> "Ended[R]":
        now_ms, code = _now_ms(), error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() > until - _CLOCK_S:
            # It was the call's own, less what the wire rounds off.
            now_ms = max(now_ms, int(self.end * 1000))
        pushback_ms = pushback_of(error)
        if pushback_ms is None and len(await call.initial_metadata()):
            # The answer had begun, and may have been acted on.
            pushback_ms = -1
        return Ended(call, code, now_ms, error=error, pushback_ms=pushback_ms)

    def hedge(self, delay_ms: int) -> Hedge:
        """The machine of a call that is hedged."""
        return Hedge(
            self._guard.budget,
            delay_ms=delay_ms,
            end_ms=int(self.end * 1000),
            never=self._rules.never,
        )

    def enter_now(self) -> Entry | None:
        """A place for one more attempt, if there is one."""
        return self._guard.enter_now()


class _Hedging(Generic[R]):
    """Attempts beside each other."""

    def __init__(self, calling: Calling[R], entry: Entry, delay_ms: int) -> None:
        self._calling = calling
        self._entry = entry
        self._machine = calling.hedge(delay_ms)
        self._running: dict[asyncio.Task[Ended[R]], int] = {}
        self._over: dict[int, Ended[R]] = {}

    async def run(self) -> "Ended[R]":
        try:
            move = self._machine.start(_now_ms())
            self._spawn(1, self._entry)
            while move.end is None:
                move = self._taken(await self._next(move))
            if move.end.stop_above:
                _marks.stop_above()
            if move.end.attempt in self._over:
                return self._over[move.end.attempt]
        finally:
            await self._cancel()
        raise _statuses.from_parts(move.end.code.value[0], "Deadline Exceeded", b"")

    async def _next(self, move: Move) -> Move:
        """What the machine says when an attempt has ended, or it is late enough."""
        assert move.wake_ms is not None
        seconds = max(0.0, move.wake_ms / 1000 - time.monotonic())
        done: set[asyncio.Task[Ended[R]]] = set()
        if self._running:
            done, _ = await asyncio.wait(
                self._running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        else:
            await asyncio.sleep(seconds)
        if not done:
            return self._machine.wake(_now_ms())
        task = done.pop()
        number = self._running.pop(task)
        try:
            ended = self._over[number] = task.result()
        except grpc.aio.AioRpcError:
            # There was no time to send it.
            return self._machine.refused(number)
        return self._machine.status(ended.now_ms, number, ended.code, ended.pushback_ms)

    def _taken(self, move: Move) -> Move:
        """Does what the machine says."""
        if move.send is None:
            return move
        entry = self._calling.enter_now()
        if entry is None:
            return self._machine.refused(move.send)
        self._spawn(move.send, entry)
        return move

    def _spawn(self, number: int, entry: Entry) -> None:
        attempt = self._calling.attempt(entry, number)
        self._running[asyncio.create_task(attempt, name="plait-attempt")] = number

    async def _cancel(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)


def pushback_of(error: grpc.aio.AioRpcError) -> int | None:
    """How long the worker says to wait, in milliseconds; negative: do not try again; None: it says
    nothing. The longer of a trailer and a RetryInfo."""
    trailers = error.trailing_metadata() or ()
    said = [_number(value) for key, value in trailers if key == _marks.PUSHBACK_KEY]
    if any(each < 0 for each in said):
        return -1
    seconds = errors.retry_after(error)
    if seconds is not None:
        said.append(max(0, int(seconds * 1000)))
    return max(said, default=None)


def _number(value: str | bytes) -> int:
    text = value if isinstance(value, str) else value.decode(errors="replace")
    return int(text) if text.isascii() and text.isdigit() else -1


def worth_it(timeout_ms: int | None) -> int:
    """The timeout. Raises DEADLINE_EXCEEDED where there is no time worth sending."""
    if timeout_ms is None or timeout_ms < _POLICY.min_useful_ms:
        code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        raise _statuses.from_parts(code, "Deadline Exceeded", b"")
    return timeout_ms


def on_the_wire(timeout_ms: int) -> int:
    """What C-core makes no longer by its rounding: it writes three digits, rounded up. Its clock
    may be some milliseconds behind as well (up to 20, measured with 1.85.1), which shortening by a
    step mostly covers. What is left gives a handler no time: the call ends with its caller's."""
    step = next((step for below, step in _STEPS if timeout_ms < below), 1000)
    return timeout_ms - timeout_ms % step - min(10 if step > 1 else 5, timeout_ms // 10)


def _now_ms() -> int:
    return int(time.monotonic() * 1000)
