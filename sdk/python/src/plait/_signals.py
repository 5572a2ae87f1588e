"""SIGTERM and SIGINT for the workers of a process."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)
_stops: list[Callable[[], None]] = []


@contextlib.contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at each signal, while inside; does nothing outside the main thread, where
    signals do not arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    if not _stops:
        for number in _NUMBERS:
            loop.add_signal_handler(number, _signalled)
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)
        if not _stops:
            for number in _NUMBERS:
                loop.remove_signal_handler(number)


def _signalled() -> None:
    for stop in _stops:
        stop()
