"""Threads for handlers that are plain functions. Results come back to the event loop in batches."""

import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from plait.v1 import task_service_pb2

# What a job answers: a serialized response, or a failure.
Outcome: TypeAlias = "tuple[bytes | None, task_service_pb2.Failure | None]"
Job: TypeAlias = Callable[[], Outcome]
Done: TypeAlias = Callable[[Outcome], None]


class Threads:
    """A fixed number of threads. The caller bounds how many jobs it gives them."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[contextvars.Context, Job, Done] | None] = (
            queue.SimpleQueue()
        )
        self._finished: deque[tuple[Done, Outcome]] = deque()
        self._collecting = False
        # Daemons: a handler that hangs must not keep the process, whose second signal means now.
        self._threads = [
            threading.Thread(target=self._work, name=f"plait-handler-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, context: contextvars.Context, job: Job, done: Done) -> None:
        """Runs a job in a thread, inside a context, and calls `done` with its outcome on the event
        loop."""
        self._jobs.put((context, job, done))

    def close(self) -> None:
        """Lets every thread end after the job it has."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            context, job, done = item
            self._finished.append((done, context.run(job)))
            # Two threads may both find it false: then it is collected twice, the second time in
            # vain.
            if not self._collecting:
                self._collecting = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:
                    # The loop is closed: nobody wants results any more.
                    return

    def _collect(self) -> None:
        self._collecting = False
        while self._finished:
            done, outcome = self._finished.popleft()
            done(outcome)
