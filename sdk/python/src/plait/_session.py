"""The submit stream: one for each client, resumed under the same session when it breaks
(docs/protocol.md §3)."""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from typing import TypeAlias

import grpc

from plait import _statuses, errors
from plait._outbox import Outbox
from plait._streams import end_task, read
from plait._submission import Submission
from plait._wanted import Wanted
from plait._wire import CLIENT, FRAME_TASKS_MAX, RECONNECT_MAX_S, RECONNECT_MIN_S
from plait.v1 import task_service_pb2, task_service_pb2_grpc

_log = logging.getLogger(__name__)

_Call: TypeAlias = (
    "grpc.aio.StreamStreamCall["
    "task_service_pb2.SubmitStreamRequest, task_service_pb2.SubmitStreamResponse]"
)

# What a broker answers to a frame that it will never take; sending it again would go on for ever.
_FATAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Session:
    """Sends submissions in batches and settles them; reconnects until it is closed."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        on_unknown_method: Callable[[Submission], bool],
    ) -> None:
        self._stub = task_service_pb2_grpc.TaskServiceStub(channel)
        # Takes a submission whose method the broker does not know; False: it is to fail.
        self._on_unknown_method = on_unknown_method
        self._id = secrets.token_bytes(16)
        self._outbox = Outbox()
        self._wanted = Wanted()
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        # Back-pressure: nothing is submitted while this timer runs.
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        # Whether the stream of this moment, or the last one, was welcome.
        self._welcomed = False
        self.payload_bytes_max = 0

    def submit(self, submission: Submission) -> None:
        """Queues a submission; it is sent with those that wait, as soon as the line is free."""
        if self._closed:
            submission.finish(b"", _statuses.closed())
            return
        size = len(submission.payload)
        if self.payload_bytes_max and size > self.payload_bytes_max:
            submission.finish(b"", too_large("request", size, self.payload_bytes_max))
            return
        self._outbox.queue.append(submission)
        self._wake()

    def want(self, submission: Submission) -> None:
        """Asks for the result of a task that was accepted."""
        if self._closed:
            submission.finish(b"", _statuses.closed())
            return
        submission.awaited = True
        if submission.flow is not None:
            submission.flow.child_started(submission)
        self._wanted.ask(submission)
        self._wake()

    def forget(self, submission: Submission) -> None:
        """The result is no longer wanted. The task goes on."""
        if not submission.awaited:
            return
        submission.awaited = False
        if submission.flow is not None:
            submission.flow.child_ended(submission)
        if submission.accepted and not submission.done:
            self._wanted.forget(submission)
            self._wake()

    async def close(self) -> None:
        """Ends the stream. Whoever waits gets CANCELLED; accepted tasks go on."""
        self._closed = True
        self._end_pause()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail_all(_statuses.closed())

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="plait-session")
            self._task.add_done_callback(self._ended)
        idle = self._idle
        if idle is not None and not idle.done():
            idle.set_result(None)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is None:
            return
        # A fault of ours: nobody may wait for ever because of it.
        _log.error("the session ended", exc_info=task.exception())
        self._closed = True
        self._fail_all(
            _statuses.from_parts(grpc.StatusCode.INTERNAL.value[0], repr(task.exception()), b"")
        )

    async def _run(self) -> None:
        wait = RECONNECT_MIN_S
        while True:
            self._welcomed = False
            try:
                await self._connect()
            except grpc.aio.AioRpcError as error:
                _log.debug("submit stream ended: %s %s", error.code().name, error.details())
                if error.code() in _FATAL:
                    self._give_up(error)
            if self._welcomed:
                # However it ended: the broker was there a moment ago.
                wait = RECONNECT_MIN_S
            await asyncio.sleep(random.uniform(0, wait))
            wait = min(wait * 2, RECONNECT_MAX_S)

    async def _connect(self) -> None:
        """One stream, from hello to its end."""
        call: _Call = self._stub.SubmitStream(wait_for_ready=True)
        writer: asyncio.Task[None] | None = None
        try:
            hello = task_service_pb2.SessionHello(session=self._id, client=CLIENT)
            await call.write(task_service_pb2.SubmitStreamRequest(hello=hello))
            first = await read(call)
            if first is None:
                return
            self._welcomed = True
            if not self._welcome(first.welcome):
                return
            writer = asyncio.create_task(self._write(call), name="plait-session-writer")
            while (response := await read(call)) is not None:
                self._take(response)
        finally:
            call.cancel()
            if writer is not None:
                await end_task(writer)

    def _welcome(self, welcome: task_service_pb2.SessionWelcome) -> bool:
        """Takes up the session. False when the broker has forgotten it: a new one is opened
        then."""
        self.payload_bytes_max = welcome.payload_bytes_max
        self._outbox.frame_tasks_max = welcome.frame_tasks_max or FRAME_TASKS_MAX
        if welcome.last_sequence + 1 < self._outbox.first_unacked:
            self._id = secrets.token_bytes(16)
            self._outbox.renumber()
            return False
        self._outbox.restart()
        self._wanted.restart()
        # Another broker may answer now, and this one will say so again.
        self._end_pause()
        return True

    async def _write(self, call: _Call) -> None:
        try:
            while True:
                message = self._wanted.take()
                if message is None and self._pause is None:
                    message = self._outbox.take()
                if message is not None:
                    await call.write(message)
                    continue
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader sees the stream's end and its status.
            return
        except Exception:
            # A fault of ours; the reader is to end, too.
            call.cancel()
            raise

    def _take(self, response: task_service_pb2.SubmitStreamResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "results":
            self._wanted.settle(response.results)
        elif kind == "accepted":
            self._accepted(response.accepted)

    def _accepted(self, answer: task_service_pb2.SequencedAccepted) -> None:
        if answer.HasField("retry_after"):
            self._outbox.rewind(answer.sequence)
            self._pause_for(answer.retry_after.seconds + answer.retry_after.nanos / 1e9)
            return
        frame = self._outbox.acknowledge(answer.sequence)
        if frame is None:
            return
        refused = {each.index: each.status for each in answer.accepted.refusals}
        numbers = answer.accepted.tasks
        for index, (submission, number) in enumerate(zip(frame.submissions, numbers, strict=True)):
            if index in refused:
                self._refused(submission, errors.from_status(refused[index]))
                continue
            submission.accept(number)
            if submission.awaited:
                self._wanted.add(submission)
            elif frame.awaited:
                self._wanted.forget(submission)
        # There may be room for another frame now.
        self._wake()

    def _refused(self, submission: Submission, error: grpc.aio.AioRpcError) -> None:
        unknown = errors.reason(error) == errors.Reason.METHOD_UNKNOWN
        if unknown and self._on_unknown_method(submission):
            return
        submission.finish(b"", error)

    def _pause_for(self, seconds: float) -> None:
        if self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(seconds, self._resume)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _resume(self) -> None:
        self._pause = None
        self._wake()

    def _give_up(self, error: grpc.aio.AioRpcError) -> None:
        """Fails what is not acknowledged, whose fault it was, and starts afresh for what comes
        later."""
        for submission in list(self._outbox.clear()):
            submission.finish(b"", error)
        self._id = secrets.token_bytes(16)
        self._outbox.renumber()

    def _fail_all(self, error: grpc.aio.AioRpcError) -> None:
        for submission in [*self._outbox.clear(), *self._wanted.clear()]:
            submission.finish(b"", error)


def too_large(what: str, size: int, limit: int) -> grpc.aio.AioRpcError:
    """INVALID_ARGUMENT, TOO_LARGE: sizes in bytes."""
    return errors.new(
        grpc.StatusCode.INVALID_ARGUMENT,
        errors.Reason.TOO_LARGE,
        f"the {what} has {size} bytes and at most {limit} are allowed",
        {"field": what, "size": str(size), "limit": str(limit)},
    )
