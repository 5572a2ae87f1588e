"""A scheduler that runs in this process."""

import asyncio
from typing import Any, Self

import grpc

from plait_scheduler.scheduler import Scheduler
from plait_scheduler.settings import Settings


class RunningScheduler:
    """Runs from enter to exit; `stop` drains it sooner."""

    def __init__(self, broker: str, **settings: Any) -> None:
        self._settings = Settings(
            broker=broker, listen="127.0.0.1:0", **{"figures_interval_ms": 50, **settings}
        )
        self._stopping = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._running: asyncio.Task[None] | None = None
        self._scheduler = Scheduler(self._settings)
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._running = self._group.create_task(
            self._scheduler.run(self._stopping, self.ready.set_result)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._group.__aexit__(None, None, None)

    async def metrics(self) -> str:
        """Where its metrics are."""
        await self.ready
        return self._scheduler.metrics_address

    async def stop(self) -> None:
        assert self._running is not None
        self._stopping.set()
        await self._running

    async def kill(self) -> None:
        """Ends it as kill -9 does: nothing is drained."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])

    async def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(await self.ready)
