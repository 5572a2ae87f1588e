"""One call of a handler: from the bytes of the request to the bytes of the response, or a
failure."""

import asyncio
import contextvars
import logging
import time
import types
from collections.abc import Coroutine, Generator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from plait import _run, _spans, _statuses, errors
from plait._attempt import Attempt, metadata_value
from plait._context import HandlerContext, SyncContext, failure_of, plait_failure
from plait._run import Run
from plait._threads import Outcome
from plait.v1 import task_service_pb2

_log = logging.getLogger("plait.worker")


class Invocation:
    """Runs a handler once."""

    __slots__ = (
        "_coroutine",
        "_handler_context",
        "_span",
        "_timer",
        "_waits_for",
        "context",
        "run",
    )

    def __init__(self, run: Run, context: contextvars.Context) -> None:
        """`context` is for the handler alone."""
        self.run = run
        self.context = context
        self._handler_context = HandlerContext(run)
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._waits_for: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._span: _spans.AttemptSpan | None = None

    def begin(self) -> "Outcome | None":
        """Runs a coroutine function until it waits for the first time; None when it does."""
        try:
            self._waits_for = self.context.run(self._begin)
        except StopIteration as returned:
            return self._outcome(returned.value)
        except (Exception, asyncio.CancelledError) as error:
            return None, self._failure(error)
        return None

    async def go_on(self) -> Outcome:
        """Runs it from there to its end."""
        self.arm()
        assert self._coroutine is not None
        try:
            return self._outcome(await _go_on(self._coroutine, self.context, self._waits_for))
        except (Exception, asyncio.CancelledError) as error:
            return None, self._failure(error)

    def call(self) -> Outcome:
        """Runs a plain function, in a thread; the thread is in the context."""
        try:
            request = self._prepare()
            context = SyncContext(self._handler_context)
            return self._outcome(self.run.served.handler(request, context))
        except Exception as error:
            return None, self._failure(error)

    def arm(self) -> None:
        """Has the handler stopped when its time is over."""
        left = self.run.deadline - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(left, self._expire)

    def end(self, outcome: Outcome) -> Outcome:
        """Cleans up; answers the outcome that is to be told."""
        run = self.run
        run.runner = None
        run.finished = True
        if self._timer is not None:
            self._timer.cancel()
        if run.flow is not None:
            run.flow.abandon()
        if self._span is not None:
            self._finish_span(outcome)
        run.ended()
        return (None, run.verdict) if run.stopped else outcome

    def _begin(self) -> Any:
        """What the handler waits for first. Raises StopIteration with its response when it waits
        for nothing."""
        request = self._prepare()
        self._coroutine = self.run.served.handler(request, self._handler_context)
        return self._coroutine.send(None)

    def _prepare(self) -> Any:
        """The request. Sets up the context that is current."""
        run = self.run
        _run.current.set(run)
        run.flags = run.holdings.flags.now
        if run.extra is not None and run.extra.metadata:
            _spans.continue_from(
                (each.key, metadata_value(each.key, each.value)) for each in run.extra.metadata
            )
        if _spans.configured():
            here = Attempt(run)
            self._span = _spans.AttemptSpan(
                run.served.name, run.served.queue, here.task_id, here.number
            )
        if time.monotonic() >= run.deadline:
            raise _Expired
        payload, run.payload = run.payload, b""
        try:
            return run.served.deserialize(payload)
        except (DecodeError, ValueError) as error:
            raise _Broken(f"the request cannot be read: {error}") from error

    def _outcome(self, response: Any) -> Outcome:
        failure = self._handler_context.failure()
        if failure is not None:
            return None, failure
        try:
            payload = self.run.served.serialize(response)
        except Exception as error:
            _log.exception("%s: the response cannot be written", self.run.served.name)
            text = f"the response cannot be written: {error}"
            return None, failure_of(grpc.StatusCode.INTERNAL, text, ())
        limit = self.run.holdings.payload_bytes_max
        if limit and len(payload) > limit:
            return None, _too_large(len(payload), limit)
        return payload, None

    def _failure(self, error: BaseException) -> task_service_pb2.Failure:
        if isinstance(error, _Expired):
            return timed_out()
        if isinstance(error, _Broken):
            return failure_of(grpc.StatusCode.INTERNAL, str(error), ())
        if not (self.run.stopped or isinstance(error, (grpc.RpcError, grpc.aio.AbortError))):
            _log.warning("%s raised %r", self.run.served.name, error, exc_info=error)
        return self._handler_context.failure_after(error)

    def _expire(self) -> None:
        run = self.run
        # A flow that stands still is not failed: the broker unloads it, and says so.
        if run.flow is None or not run.flow.waits:
            run.stop(timed_out())

    def _finish_span(self, outcome: Outcome) -> None:
        assert self._span is not None
        failure = outcome[1]
        if self.run.stopped:
            verdict = self.run.verdict
            code = _statuses.code_of(verdict.code) if verdict else grpc.StatusCode.CANCELLED
            self._span.finished(code, verdict.message if verdict else "the attempt was stopped")
        elif failure is not None:
            self._span.finished(_statuses.code_of(failure.code), failure.message)
        else:
            self._span.finished(grpc.StatusCode.OK, "")


class _Expired(Exception):
    """The time was over before the handler began."""


class _Broken(Exception):
    """The request is no message of its type."""


@types.coroutine
def _go_on(
    coroutine: Coroutine[Any, Any, Any], context: contextvars.Context, waits_for: Any
) -> Generator[Any, Any, Any]:
    """Drives a coroutine that waits, each step in its context; what it waits for is the asyncio
    task's to await."""
    while True:
        try:
            try:
                value = yield waits_for
            except BaseException as error:
                waits_for = context.run(coroutine.throw, error)
            else:
                waits_for = context.run(coroutine.send, value)
        except StopIteration as returned:
            return returned.value


def timed_out() -> task_service_pb2.Failure:
    """DEADLINE_EXCEEDED, ATTEMPT_TIMED_OUT."""
    return plait_failure(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.Reason.ATTEMPT_TIMED_OUT,
        "the attempt ran out of time",
        {},
    )


def _too_large(size: int, limit: int) -> task_service_pb2.Failure:
    return plait_failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        errors.Reason.TOO_LARGE,
        f"the response has {size} bytes and at most {limit} are allowed",
        {"field": "response", "size": str(size), "limit": str(limit)},
    )
