"""Waiting for what happens elsewhere: by an event where there is one, else by asking."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import plait

R = TypeVar("R")

PATIENCE_S = 20.0
_PAUSE_S = 0.02


async def reaches(task: plait.Task[Any], *states: str, attempt: int = 0) -> plait.Snapshot:
    """Waits until a task is in one of the states, at this attempt or a later one."""
    last = None
    async with asyncio.timeout(PATIENCE_S):
        async for last in task.watch():
            if last.state in states and last.attempt >= attempt:
                return last
    raise AssertionError(f"{task!r} ended as {last}, not in {states}")


async def eventually(
    ask: Callable[[], Awaitable[R]], holds: Callable[[R], Any], limit_s: float = PATIENCE_S
) -> R:
    """Asks until the answer holds; for figures that nobody streams. Raises AssertionError."""
    end = time.monotonic() + limit_s
    while not holds(answer := await ask()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s} s; the last answer: {answer}")
        await elapse(_PAUSE_S)
    return answer


async def elapse(seconds: float) -> None:
    """Lets time pass, for tests that are about just that: a silence, a stall, a steady load."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()
