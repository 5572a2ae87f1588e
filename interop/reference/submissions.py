"""What is submitted: one task, and the frames in which tasks travel (protocol §3)."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as tasks_api

TASKS_MAX = 256
"""Most tasks in a frame."""
BYTES_MAX = 1 << 20
"""Most bytes of payloads, keys and options in a frame of more than one task."""


def _future() -> "asyncio.Future[int]":
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class Submission:
    """One task to submit. Made inside a running event loop."""

    method: str
    payload: bytes
    key: str = ""
    ordering_key: str = ""
    options: task_pb2.TaskOptions = field(default_factory=task_pb2.TaskOptions)
    route: str = ""
    """What the frame names for the method; "": the method."""
    result: "asyncio.Future[bytes] | None" = None
    """Where the result goes; None: it is not asked for."""
    accepted: "asyncio.Future[int]" = field(default_factory=_future)
    """The task's number, or StatusError."""

    @property
    def parent(self) -> task_pb2.FlowParent | None:
        """The attempt of the flow that asks for it."""
        return self.options.parent if self.options.HasField("parent") else None

    @property
    def size(self) -> int:
        """What it adds to a frame, in bytes."""
        keys = len(self.key.encode()) + len(self.ordering_key.encode())
        return len(self.payload) + keys + self.options.ByteSize()


@dataclass(eq=False, slots=True)
class Frame:
    """Tasks under one number, kept until the broker has said what became of them."""

    sequence: int
    tasks: tuple[Submission, ...]

    def message(self) -> tasks_api.SubmitStreamRequest:
        """As it goes out, the same each time."""
        columns = tasks_api.SubmitFrame()
        methods: dict[str, int] = {}
        for index, task in enumerate(self.tasks):
            columns.method_index.append(methods.setdefault(task.route or task.method, len(methods)))
            columns.payloads.append(task.payload)
            columns.idempotency_keys.append(task.key)
            columns.ordering_keys.append(task.ordering_key)
            if task.options.ByteSize():
                columns.options.add(index=index, options=task.options)
        columns.methods.extend(methods)
        request = tasks_api.SubmitStreamRequest()
        request.submit.sequence = self.sequence
        request.submit.tasks.CopyFrom(columns)
        # "await" is a word of Python.
        setattr(request.submit, "await", self.tasks[0].result is not None)
        return request


def take(waiting: deque[Submission]) -> tuple[Submission, ...]:
    """The next frame's tasks: what waits, up to the limits, while all want a result or none."""
    taken = [waiting.popleft()]
    size = taken[0].size
    while waiting and len(taken) < TASKS_MAX:
        following = waiting[0]
        size += following.size
        if size > BYTES_MAX or (following.result is None) != (taken[0].result is None):
            break
        taken.append(waiting.popleft())
    return tuple(taken)
