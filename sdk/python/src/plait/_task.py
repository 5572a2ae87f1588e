"""The handle of a task."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import grpc

from plait import errors
from plait._session import Session
from plait._submission import Submission
from plait.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

R = TypeVar("R", covariant=True)


class TaskState(StrEnum):
    """Where a task is in its life. SUCCEEDED, FAILED, CANCELLED and EXPIRED are final."""

    SCHEDULED = "SCHEDULED"
    """Waits for its start time."""
    READY = "READY"
    """May start as soon as a worker has room, and its ordering key is free."""
    RUNNING = "RUNNING"
    """A worker accepted the attempt."""
    BACKOFF = "BACKOFF"
    """Waits after a failed attempt."""
    SUSPENDED = "SUSPENDED"
    """A flow that waits for its children."""
    PARKED = "PARKED"
    """Held by an open breaker or a paused queue."""
    SUCCEEDED = "SUCCEEDED"
    """Done; the result can be read."""
    FAILED = "FAILED"
    """Failed for good; the error can be read."""
    CANCELLED = "CANCELLED"
    """Cancelled before it was done."""
    EXPIRED = "EXPIRED"
    """Its deadline passed."""

    @property
    def final(self) -> bool:
        """Whether nothing more happens to the task, a redrive aside."""
        return self in _FINAL


_FINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A task at one moment."""

    state: TaskState
    """Where it was."""
    attempt: int
    """The attempt that ran or ran last; 0 before the first."""
    max_attempts: int
    """Attempts it may have."""
    worker: str
    """The id of the worker that held it; "" for none."""
    fraction: float | None
    """The share done that its handler reported; None before the first report."""
    message: str
    """The line for people that its handler reported."""
    error: grpc.aio.AioRpcError | None
    """The latest error; kept after a retry until the task succeeds."""


class Task(Generic[R]):
    """One durable invocation of a method, whose response is an R."""

    def __init__(
        self,
        submission: Submission,
        session: Session,
        stub: "task_service_pb2_grpc.TaskServiceAsyncStub",
        decode: Callable[[bytes], R],
    ) -> None:
        self._submission = submission
        self._session = session
        self._stub = stub
        self._decode = decode

    def __repr__(self) -> str:
        return f"<Task {self.id} {self._submission.method.name}>"

    @property
    def id(self) -> str:
        """Its id: "t" and 16 hexadecimal digits."""
        return f"t{self._submission.number:016x}"

    async def result(self) -> R:
        """Waits for the response; raises the task's error, as a call of the stub would.

        The wait has no bound but the task's own deadline; bound it by `asyncio.timeout`. It may be
        awaited as often
        as one likes. Giving up the wait does not cancel the task.
        """
        submission = self._submission
        if not submission.done and not submission.awaited:
            self._session.want(submission)
        try:
            return self._decode(await submission.wait())
        finally:
            if not submission.done and not submission.waiting:
                self._session.forget(submission)

    async def state(self) -> TaskState:
        """Where it is now. Raises NOT_FOUND when its retention has passed."""
        request = task_service_pb2.GetTaskRequest(id=self.id)
        return snapshot((await self._stub.GetTask(request)).task).state

    async def watch(self) -> AsyncIterator[Snapshot]:
        """The task as it is now and after each change, until it is final."""
        call = self._stub.WatchTask(task_service_pb2.WatchTaskRequest(id=self.id))
        try:
            async for answer in call:
                yield snapshot(answer.task)
        finally:
            call.cancel()

    async def cancel(self, reason: str = "") -> TaskState:
        """Cancels it; answers CANCELLED, or the final state that won the race.

        A task that has not started never will; a running handler is told to stop. `reason` is for
        people, at most
        1 KiB.
        """
        request = task_service_pb2.CancelTaskRequest(id=self.id, reason=reason)
        return snapshot((await self._stub.CancelTask(request)).task).state


def snapshot(task: task_pb2.Task) -> Snapshot:
    """A task of the API."""
    return Snapshot(
        state=TaskState(task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_")),
        attempt=task.attempt,
        max_attempts=task.max_attempts,
        worker=task.worker,
        fraction=task.progress.fraction if task.HasField("progress") else None,
        message=task.progress.message,
        error=errors.from_status(task.error) if task.HasField("error") else None,
    )


def number_of(task_id: str) -> int:
    """The number of a task id. Raises ValueError for what is none."""
    if len(task_id) != 17 or task_id[0] != "t":
        raise ValueError(f"{task_id!r} is no task id: those are t and 16 hexadecimal digits")
    return int(task_id[1:], 16)
