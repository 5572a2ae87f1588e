"""Many submissions with bounded memory: a window of them is on its way at once."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from typing import TypeVar

from plait._session import Session
from plait._submission import Submission

Q = TypeVar("Q")


async def pipeline(
    submit: Callable[[Q], Submission],
    requests: Iterable[Q] | AsyncIterable[Q],
    window: int,
    session: Session,
) -> AsyncGenerator[Submission, None]:
    """Submits the requests in order and yields the submissions in order, each to be waited for by
    the caller.

    The results of those that the caller did not come to are forgotten.
    """
    if window < 1:
        raise ValueError(f"window is at least 1, not {window}")
    open_: deque[Submission] = deque()
    if isinstance(requests, AsyncIterable):
        source = _from_async(submit, requests, window, open_)
    else:
        source = _from_sync(submit, requests, window, open_)
    try:
        async with contextlib.aclosing(source) as submissions:
            async for submission in submissions:
                yield submission
    finally:
        for submission in open_:
            session.forget(submission)


async def _from_sync(
    submit: Callable[[Q], Submission],
    requests: Iterable[Q],
    window: int,
    open_: deque[Submission],
) -> AsyncGenerator[Submission, None]:
    source: Iterator[Q] = iter(requests)
    more = True
    while True:
        while more and len(open_) < window:
            try:
                request = next(source)
            except StopIteration:
                more = False
                break
            open_.append(submit(request))
        if not open_:
            return
        yield open_[0]
        open_.popleft()


async def _from_async(
    submit: Callable[[Q], Submission],
    requests: AsyncIterable[Q],
    window: int,
    open_: deque[Submission],
) -> AsyncGenerator[Submission, None]:
    """Reads the source in a task of its own, so that a slow one holds up no result."""
    room = asyncio.Semaphore(window)
    ready: asyncio.Queue[Submission | None] = asyncio.Queue()

    async def feed() -> None:
        try:
            async for request in requests:
                await room.acquire()
                submission = submit(request)
                open_.append(submission)
                ready.put_nowait(submission)
        finally:
            ready.put_nowait(None)

    feeder = asyncio.create_task(feed(), name="plait-feed")
    try:
        while (submission := await ready.get()) is not None:
            yield submission
            open_.popleft()
            room.release()
        await feeder
    finally:
        feeder.cancel()
        await asyncio.wait([feeder])
