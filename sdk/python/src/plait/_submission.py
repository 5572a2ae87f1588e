"""One task on its way from the caller to its result, and who waits for it."""

import asyncio
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._flow import Flow
    from plait._methods import Method
    from plait._spans import SubmitSpan
    from plait.v1 import task_pb2


class Submission:
    """A task as its submitter sees it: queued, sent, accepted under a number, done.

    It is no future: most of them are settled in bulk, and only one that somebody waits for costs a
    future.
    """

    __slots__ = (
        "accepted",
        "accepting",
        "awaited",
        "callbacks",
        "done",
        "error",
        "flow",
        "idempotency_key",
        "limit_key",
        "method",
        "number",
        "options",
        "ordering_key",
        "payload",
        "response",
        "retried",
        "span",
        "twin",
        "waiting",
    )

    def __init__(self, method: "Method", payload: bytes, *, awaited: bool) -> None:
        self.method = method
        # The serialized request; let go when the task is accepted.
        self.payload = payload
        # Whether the broker is to send the result on the session's stream.
        self.awaited = awaited
        self.idempotency_key: str | None = None
        self.ordering_key: str | None = None
        self.limit_key: str | None = None
        # Shared between submissions with equal options, so that a frame says them once.
        self.options: task_pb2.TaskOptions | None = None
        # The flow it is a child of.
        self.flow: Flow | None = None
        self.span: SubmitSpan | None = None
        # The task's number, once accepted.
        self.number = 0
        self.accepted = False
        # Final: `error` if it is set, else `response`.
        self.done = False
        self.response = b""
        self.error: grpc.aio.AioRpcError | None = None
        # Whether it was sent again after METHOD_UNKNOWN.
        self.retried = False
        # Another submission under the same number that waits for the result, too.
        self.twin: Submission | None = None
        self.accepting: list[asyncio.Future[None]] | None = None
        self.waiting: list[asyncio.Future[None]] | None = None
        self.callbacks: list[Callable[[Submission], None]] | None = None

    def accept(self, number: int) -> None:
        """The task is durable."""
        self.number = number
        self.accepted = True
        self.payload = b""
        if self.span is not None:
            self.span.accepted(self)
        if self.accepting is not None:
            _wake(self.accepting)
            self.accepting = None

    def finish(self, response: bytes, error: grpc.aio.AioRpcError | None = None) -> None:
        """The result, or why there is none. Only the first one counts."""
        if self.done:
            return
        self.done = True
        self.response = response
        self.error = error
        self.payload = b""
        if self.flow is not None:
            self.flow.child_ended(self)
        if self.span is not None:
            self.span.finished(self)
        if self.accepting is not None:
            _wake(self.accepting)
            self.accepting = None
        if self.waiting is not None:
            _wake(self.waiting)
            self.waiting = None
        if self.callbacks is not None:
            callbacks, self.callbacks = self.callbacks, None
            for callback in callbacks:
                callback(self)

    async def wait_accepted(self) -> None:
        """Returns when the task is durable; raises when it was refused."""
        if not self.accepted and not self.done:
            future = asyncio.get_running_loop().create_future()
            if self.accepting is None:
                self.accepting = []
            self.accepting.append(future)
            await future
        if self.error is not None and not self.accepted:
            raise self.error

    async def wait(self) -> bytes:
        """The serialized response; raises the task's error."""
        if not self.done:
            future = asyncio.get_running_loop().create_future()
            if self.waiting is None:
                self.waiting = []
            self.waiting.append(future)
            flow = self.flow
            if flow is not None:
                flow.wait_began()
            try:
                await future
            except asyncio.CancelledError:
                if self.waiting is not None and future in self.waiting:
                    self.waiting.remove(future)
                raise
            finally:
                if flow is not None:
                    flow.waits -= 1
        if self.error is not None:
            raise self.error
        return self.response

    def call_when_done(self, callback: "Callable[[Submission], None]") -> None:
        """Calls back with this submission once it is done; at once if it is."""
        if self.done:
            callback(self)
        elif self.callbacks is None:
            self.callbacks = [callback]
        else:
            self.callbacks.append(callback)


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
