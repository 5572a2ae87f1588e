"""The observer: keeps the one stream from the broker and hands what happens to the loops."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import structlog
from tenacity import RetryCallState

from plait_scheduler.broker.control import Control
from plait_scheduler.broker.retry import StreamEndedError, unbounded
from plait_scheduler.domain.events import Event

FIGURES_INTERVAL_MS = 1000
# The broker's own bound.
FIGURES_INTERVAL_MS_MIN = 50
# A stream that ends sooner counts as a failed connection, so that the pause before the next one
# grows.
LIFE_SECONDS_MIN = 1.0


@dataclass(frozen=True, slots=True)
class ObserverConfig:
    """What the observer needs to know."""

    # Names this process to the broker.
    scheduler: str
    # How often figures are wanted.
    figures_interval_ms: int = FIGURES_INTERVAL_MS

    def validate(self) -> None:
        """Raises ValueError."""
        if not self.scheduler:
            raise ValueError("the observer needs the scheduler's id")
        if self.figures_interval_ms < FIGURES_INTERVAL_MS_MIN:
            raise ValueError(
                f"figures every {self.figures_interval_ms} ms are closer together than "
                f"{FIGURES_INTERVAL_MS_MIN} ms"
            )


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told."""

    # A stream is open: what is true will be told anew.
    connected: Callable[[], Awaitable[None]]
    # It is gone.
    disconnected: Callable[[], Awaitable[None]]
    # Something happened. The stream waits for the answer, and so does the broker behind it.
    happened: Callable[[Event], Awaitable[None]]


class Observer:
    """Observes for ever: whatever ends the stream, it opens the next one."""

    def __init__(self, config: ObserverConfig, control: Control, audience: Audience) -> None:
        config.validate()
        self._config = config
        self._control = control
        self._audience = audience
        self._log = structlog.get_logger("observer")
        self._complained = False

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            async for attempt in unbounded(self._on_failure):
                with attempt:
                    await self._observe()

    async def _observe(self) -> None:
        """One stream. Returns when it ended after a life of its own, raises when it had none."""
        clock = asyncio.get_running_loop()
        opened: float | None = None
        why = "ended by the broker"
        try:
            async for event in self._control.observe(
                self._config.scheduler, self._config.figures_interval_ms
            ):
                if event is None:
                    await self._audience.connected()
                    opened = clock.time()
                    self._complained = False
                    self._log.info("connected")
                else:
                    await self._audience.happened(event)
        except grpc.aio.AioRpcError as error:
            if opened is None:
                raise
            why = f"{error.code().name}: {error.details()}"
        finally:
            if opened is not None:
                await self._audience.disconnected()
        self._log.warning("disconnected", why=why)
        if opened is None or clock.time() - opened < LIFE_SECONDS_MIN:
            raise StreamEndedError(why)

    def _on_failure(self, state: RetryCallState) -> None:
        """Complains once an outage, not once an attempt."""
        error = state.outcome.exception() if state.outcome else None
        level = self._log.debug if self._complained else self._log.warning
        self._complained = True
        detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
        level("unreachable", error=detail, attempt=state.attempt_number)
