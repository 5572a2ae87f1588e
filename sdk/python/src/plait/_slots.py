"""Where handlers run: a bounded number of slots, each an asyncio task that runs one handler after
the other.

A handler that does not wait costs no asyncio task of its own: its coroutine is driven in line,
inside a slot's task
and in a context of its own. When it waits, its slot waits with it, and the next slot goes on with
the queue. So
`asyncio.current_task()` is a real task that belongs to the handler alone for as long as it runs,
and is never used
again once it was cancelled.
"""

import asyncio
import contextvars
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from plait._invocation import Invocation
from plait._run import Run
from plait._threads import Outcome, Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait.v1 import task_service_pb2

# How long handlers run in line before the event loop gets its turn: reading, writing, timers.
SLICE_S: Final = 0.005

# How long cancelled handlers get to clean up.
CLOSE_S: Final = 5.0

_log = logging.getLogger("plait.worker")

# Called with a response, or a failure; both None when nobody wants an outcome.
Finish: TypeAlias = "Callable[[Run, bytes | None, task_service_pb2.Failure | None], None]"


class Slots:
    """Runs at most `limit` handlers at once, flows that wait for their children not counted."""

    def __init__(self, limit: int, finish: Finish, threads: Threads | None = None) -> None:
        """`threads` are needed where a handler is a plain function."""
        self.queue: deque[Run] = deque()
        self.limit = limit
        # Attempts in handlers, and those of them that wait for children.
        self.busy = 0
        self.suspended = 0
        self._finish = finish
        self._threads = threads
        self._context = contextvars.copy_context()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        # Whether a slot is about to look at the queue.
        self._called = False

    def start(self) -> None:
        """Has the queue looked at, if there is room for a handler."""
        if self._called or not self.queue or not self._has_room():
            return
        self._called = True
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return
        task = asyncio.get_running_loop().create_task(self._slot(), name="plait-slot")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def flow_changed(self, waits: bool) -> None:
        """A handler begins to wait for children, or goes on."""
        self.suspended += 1 if waits else -1
        self.start()

    async def close(self) -> None:
        """Cancels every handler and waits for their ends, but not for ever."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=CLOSE_S)
            if pending:
                _log.warning("%d handlers do not end though they were cancelled", len(pending))

    def _has_room(self) -> bool:
        return self.busy - self.suspended < self.limit

    def _take(self) -> Run | None:
        while self.queue and self._has_room():
            run = self.queue.popleft()
            if run.stopped:
                self._finish(run, None, run.verdict)
                continue
            self.busy += 1
            # Should this handler wait, another slot goes on.
            self.start()
            return run
        return None

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._called = False
        slice_end = time.monotonic() + SLICE_S
        while True:
            run = self._take()
            if run is None:
                await self._rest()
                slice_end = time.monotonic() + SLICE_S
                continue
            invocation = Invocation(run, self._context.copy())
            if run.served.is_async:
                run.runner = task
                outcome = invocation.begin()
                self._end(invocation, outcome or await invocation.go_on())
            else:
                self._hand_over(invocation)
            if task.cancelling():
                # A cancellation may still be under way in this task. Another slot takes its place.
                self.start()
                return
            if time.monotonic() > slice_end:
                await asyncio.sleep(0)
                slice_end = time.monotonic() + SLICE_S

    async def _rest(self) -> None:
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        await idle
        self._called = False

    def _hand_over(self, invocation: Invocation) -> None:
        if self._threads is None:
            raise RuntimeError("there are no threads for plain functions")
        invocation.arm()
        self._threads.submit(
            invocation.context, invocation.call, lambda outcome: self._end(invocation, outcome)
        )

    def _end(self, invocation: Invocation, outcome: Outcome) -> None:
        run = invocation.run
        self.busy -= 1
        response, failure = invocation.end(outcome)
        self._finish(run, response, failure)
        if not run.served.is_async:
            self.start()
