"""One attempt, as its handler has it (protocol §4 and §5)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from interop.reference import keys, methods
from interop.reference.session import Session
from interop.reference.submissions import Submission
from plait.v1 import task_pb2
from plait.v1 import worker_service_pb2 as workers_api

TRACE_KEYS = ("traceparent", "tracestate")
Lease = tuple[int, int]
"""A task's number and the token of its attempt."""


@dataclass(eq=False, slots=True)
class Attempt:
    """What a worker is given to do, and what its handler may say meanwhile."""

    task: int
    token: int
    method: str
    request: bytes
    deadline: float
    """On the loop's clock: its time counts from receipt."""
    extra: workers_api.AttemptExtra
    changed: Callable[["Attempt"], None]
    """Called when it reports progress, and when it begins or ends to wait for children."""
    progress: task_pb2.Progress | None = None
    """What is still to be told."""
    children: int = field(default=0)
    """Children it waits for now. A handler of this service waits for nothing else then."""

    @property
    def lease(self) -> Lease:
        """What names it towards the broker."""
        return self.task, self.token

    @property
    def number(self) -> int:
        """From 1."""
        return self.extra.attempt or 1

    @property
    def task_id(self) -> str:
        """The text of its task's number."""
        return f"t{self.task:016x}"

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the task."""
        return self.extra.idempotency_key or self.task_id

    @property
    def time_remaining_s(self) -> float:
        """Until its deadline."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def metadata(self) -> dict[str, bytes]:
        """What was submitted with it, and Plait's own."""
        return {
            **{each.key: each.value for each in self.extra.metadata},
            "plait-task-id": self.task_id.encode(),
            "plait-attempt": str(self.number).encode(),
            "plait-fencing-token": str(self.token).encode(),
            "plait-idempotency-key": self.idempotency_key.encode(),
        }

    def report(self, fraction: float, message: str) -> None:
        """Says how far it is."""
        self.progress = task_pb2.Progress(fraction=fraction, message=message)
        self.changed(self)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While it waits for a child, its slot is free."""
        self.children += 1
        self.changed(self)
        try:
            yield
        finally:
            self.children -= 1
            self.changed(self)


class Children:
    """Asks for children of attempts."""

    def __init__(self, session: Session, known: methods.Methods) -> None:
        self._session = session
        self._methods = known

    async def call(self, parent: Attempt, method: str, request: bytes) -> bytes:
        """The response of a child. Raises StatusError: what the child failed with, or a refusal."""
        known = await self._methods.resolve(method)
        task = Submission(method, request, route=known.route)
        task.key = keys.text(known.idempotency_key, request) if known.idempotency_key.path else ""
        task.ordering_key = (
            keys.text(known.ordering_key, request) if known.ordering_key.path else ""
        )
        task.options.parent.task, task.options.parent.token = parent.lease
        # No span is made here, so a child's parent in the trace is that of its flow.
        task.options.metadata.extend(
            each for each in parent.extra.metadata if each.key in TRACE_KEYS
        )
        task.result = asyncio.get_running_loop().create_future()
        try:
            with parent.waiting():
                await self._session.submit(task)
                return await task.result
        finally:
            task.result.cancel()
