"""The reference worker as a process: serves until it is told to stop, and a second time."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from interop.reference import methods
from interop.reference.attempt import Children
from interop.reference.echo import Echo
from interop.reference.session import Session
from interop.reference.worker import Worker


async def serve(slots: int) -> None:
    """Serves the service until SIGTERM, and drains then; a second one means now."""
    async with methods.dial() as channel:
        known = methods.Methods(channel)
        session = Session(channel)
        service = Echo(Children(session, known))
        worker = Worker(channel, known, service.handlers(), slots)
        told = asyncio.Semaphore(0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.release)
        keeping = [asyncio.create_task(session.run()), asyncio.create_task(worker.run())]
        try:
            await _first(*keeping, worker.attached.wait())
            sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
            sys.stdout.flush()
            await _first(*keeping, told.acquire())
            await _first(*keeping, told.acquire(), worker.drain())
        finally:
            for each in keeping:
                each.cancel()


async def _first(*waits: asyncio.Task[None] | Coroutine[Any, Any, object]) -> None:
    """Waits until one is done. Raises what it raised: a stream that is over ends the process."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        await each
