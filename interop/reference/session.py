"""One SubmitStream for the whole process (protocol §3): frames under numbers, and results awaited.

What is under way outlives its connection. Nothing here gives up by itself; a caller that does is
forgotten.
"""

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass, field

import grpc
from google.rpc import code_pb2

from interop.reference import methods, statuses, streams, submissions
from interop.reference.submissions import Frame, Submission
from plait.v1 import errors_pb2, task_pb2
from plait.v1 import task_service_pb2 as tasks_api
from plait.v1 import task_service_pb2_grpc as tasks_rpc

FRAMES_MAX = 16
"""Frames whose acceptance is outstanding."""
NUMBERS_MAX = 4096
"""Tasks in one AwaitFrame."""
Stream = grpc.aio.StreamStreamCall[tasks_api.SubmitStreamRequest, tasks_api.SubmitStreamResponse]


@dataclass(eq=False, slots=True)
class _Wanted:
    """A task whose result is waited for."""

    parent: task_pb2.FlowParent | None
    futures: "list[asyncio.Future[bytes]]" = field(default_factory=list)


class Session:
    """Submits tasks and waits for results while `run` runs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = tasks_rpc.TaskServiceStub(channel)
        self._id = secrets.token_bytes(16)
        self._sequence = 0
        self._waiting: deque[Submission] = deque()
        self._unaccepted: dict[int, Frame] = {}
        self._again: deque[Frame] = deque()
        self._awaits: deque[tasks_api.AwaitFrame] = deque()
        self._wanted: dict[int, _Wanted] = {}
        self._changed = asyncio.Event()
        self._paused_until = 0.0
        self._failures = 0
        self._message_max = 2 << 20

    async def run(self) -> None:
        """Keeps a stream to the broker until it is cancelled."""
        while True:
            try:
                await self._connection()
            except grpc.aio.AioRpcError as error:
                ended = statuses.of_call(error)
                if ended.status.code == code_pb2.INVALID_ARGUMENT:
                    self._give_up(ended)
            await methods.pause(self._failures)
            self._failures += 1

    async def submit(self, task: Submission) -> int:
        """Answers with the task's number once it is accepted. Raises StatusError."""
        if task.size > self._message_max:
            raise statuses.refused(
                code_pb2.INVALID_ARGUMENT, errors_pb2.ERROR_REASON_TOO_LARGE, "no frame holds it"
            )
        self._waiting.append(task)
        self._changed.set()
        return await task.accepted

    async def result(self, number: int) -> bytes:
        """The response of a task that was submitted before. Raises StatusError."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        known = number in self._wanted
        self._want(number, future, None)
        if not known:
            self._awaits.append(_await([number], None))
            self._changed.set()
        return await future

    def _want(
        self,
        number: int,
        future: "asyncio.Future[bytes]",
        parent: task_pb2.FlowParent | None,
    ) -> None:
        self._wanted.setdefault(number, _Wanted(parent)).futures.append(future)
        future.add_done_callback(lambda _: self._forget(number, future))

    def _forget(self, number: int, future: "asyncio.Future[bytes]") -> None:
        """A caller gave up: when nobody else waits for the task, the broker is told."""
        wanted = self._wanted.get(number)
        if wanted is None or not future.cancelled():
            return
        wanted.futures.remove(future)
        if not wanted.futures:
            del self._wanted[number]
            self._awaits.append(tasks_api.AwaitFrame(forget=[number]))
            self._changed.set()

    async def _connection(self) -> None:
        """One stream, until it ends. Raises AioRpcError unless it ended well."""
        call: Stream = self._stub.SubmitStream()
        try:
            hello = tasks_api.SessionHello(session=self._id, client="plait-reference/0.1.0")
            await streams.write(call, tasks_api.SubmitStreamRequest(hello=hello))
            first = await call.read()
            if not isinstance(first, tasks_api.SubmitStreamResponse):
                await streams.ended(call)
                return
            self._failures = 0
            if self._is_forgotten(first.welcome):
                self._renumber()
                return
            self._resume(first.welcome)
            writing = asyncio.create_task(self._write(call))
            reading = asyncio.create_task(self._read(call))
            try:
                await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    await writing
                # Whoever saw the end first, the broker has the last word.
                await reading
            finally:
                writing.cancel()
                reading.cancel()
        finally:
            call.cancel()

    def _is_forgotten(self, welcome: tasks_api.SessionWelcome) -> bool:
        """Whether the broker knows less of the session than it has told: its data is gone."""
        return welcome.last_sequence < self._sequence - len(self._unaccepted)

    def _renumber(self) -> None:
        """A new session; what was not accepted is sent in it, in the same order."""
        self._id = secrets.token_bytes(16)
        frames = list(self._unaccepted.values())
        for number, frame in enumerate(frames, 1):
            frame.sequence = number
        self._unaccepted = {frame.sequence: frame for frame in frames}
        self._sequence = len(frames)

    def _resume(self, welcome: tasks_api.SessionWelcome) -> None:
        """What a new stream must hear: frames again in order, and which results are wanted."""
        # Whatever is larger than this does not fit into a message beside its envelope.
        self._message_max = welcome.payload_bytes_max + (1 << 20)
        self._again = deque(self._unaccepted.values())
        self._paused_until = 0.0
        self._awaits.clear()
        by_parent: dict[bytes, tuple[task_pb2.FlowParent | None, list[int]]] = {}
        for number, wanted in self._wanted.items():
            name = wanted.parent.SerializeToString() if wanted.parent else b""
            by_parent.setdefault(name, (wanted.parent, []))[1].append(number)
        for parent, numbers in by_parent.values():
            for begin in range(0, len(numbers), NUMBERS_MAX):
                self._awaits.append(_await(numbers[begin : begin + NUMBERS_MAX], parent))

    async def _write(self, call: Stream) -> None:
        """Until the stream is over."""
        while True:
            self._changed.clear()
            while (message := self._next()) is not None:
                if not await streams.write(call, message):
                    return
            await self._changed.wait()

    def _next(self) -> tasks_api.SubmitStreamRequest | None:
        """What to send now. Frames that come again go before new ones, so that all are in order."""
        if self._awaits:
            frame = tasks_api.SubmitStreamRequest()
            getattr(frame, "await").CopyFrom(self._awaits.popleft())
            return frame
        if asyncio.get_running_loop().time() < self._paused_until:
            return None
        while self._again:
            if (again := self._again.popleft()).sequence in self._unaccepted:
                return again.message()
        while self._waiting and self._waiting[0].accepted.cancelled():
            self._waiting.popleft()  # its caller gave up before it was sent
        if not self._waiting or len(self._unaccepted) >= FRAMES_MAX:
            return None
        self._sequence += 1
        new = Frame(self._sequence, submissions.take(self._waiting))
        self._unaccepted[new.sequence] = new
        return new.message()

    async def _read(self, call: Stream) -> None:
        while isinstance(said := await call.read(), tasks_api.SubmitStreamResponse):
            match said.WhichOneof("message"):
                case "accepted":
                    self._accepted(said.accepted)
                case "results":
                    self._results(said.results)
        await streams.ended(call)

    def _accepted(self, said: tasks_api.SequencedAccepted) -> None:
        if said.HasField("retry_after"):
            self._pause(said.sequence, said.retry_after.ToTimedelta().total_seconds())
            return
        frame = self._unaccepted.pop(said.sequence, None)
        self._changed.set()
        if frame is None:
            return  # it went out twice, and this is the second answer
        refusals = {each.index: each.status for each in said.accepted.refusals}
        for index, task in enumerate(frame.tasks):
            if index in refusals:
                _tell(task.accepted, statuses.StatusError(refusals[index]))
                continue
            number = said.accepted.tasks[index]
            if task.result is not None:
                if task.accepted.cancelled():
                    task.result.cancel()  # its caller gave up while it was on its way
                self._want(number, task.result, task.parent)
            if not task.accepted.done():
                task.accepted.set_result(number)

    def _pause(self, sequence: int, seconds: float) -> None:
        """A frame was refused for back-pressure, and those after it too: again, after the pause."""
        loop = asyncio.get_running_loop()
        self._paused_until = loop.time() + seconds
        first = min([sequence, *(frame.sequence for frame in self._again)])
        self._again = deque(frame for number, frame in self._unaccepted.items() if number >= first)
        loop.call_at(self._paused_until, self._changed.set)

    def _results(self, frame: tasks_api.ResultFrame) -> None:
        failures = {each.index: each for each in frame.failures}
        for index, number in enumerate(frame.tasks):
            wanted = self._wanted.pop(number, None)
            for future in wanted.futures if wanted else ():
                if future.done():
                    continue
                if index in failures:
                    _tell(future, statuses.of_failure(failures[index]))
                else:
                    future.set_result(frame.payloads[index])

    def _give_up(self, error: statuses.StatusError) -> None:
        """The broker cannot read what it was sent, and would not the next time: it is not sent
        again, and what comes later is of another session."""
        for frame in self._unaccepted.values():
            for task in frame.tasks:
                _tell(task.accepted, error)
        self._unaccepted.clear()
        self._renumber()


def _tell(future: "asyncio.Future[int] | asyncio.Future[bytes]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _await(numbers: list[int], parent: task_pb2.FlowParent | None) -> tasks_api.AwaitFrame:
    return tasks_api.AwaitFrame(tasks=numbers, parent=parent)
