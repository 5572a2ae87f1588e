"""The doors of a scheduler: open while it leads; else whoever asks is told who does."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_status import rpc_status

from plait import errors

Context = grpc.aio.ServicerContext[Any, Any]


class Doors:
    """Asked by every servicer whose answers are a leader's."""

    def __init__(self, leads: Callable[[], bool], leader: Callable[[], str]) -> None:
        """`leader` is the address of the one that leads, as far as this one knows; "": unknown."""
        self._leads = leads
        self._leader = leader

    async def check(self, context: Context) -> None:
        """Aborts with UNAVAILABLE (SCHEDULER_UNAVAILABLE, metadata "leader": its address, where it
        is known) unless this one leads and observes the broker.
        """
        if self._leads():
            return
        leader = self._leader()
        message = "the scheduler is not connected to the broker"
        if leader:
            message = f"this scheduler stands by; the one that leads is at {leader}"
        status = errors.new_status(
            grpc.StatusCode.UNAVAILABLE,
            errors.Reason.SCHEDULER_UNAVAILABLE,
            message,
            {"leader": leader} if leader else {},
        )
        await context.abort_with_status(rpc_status.to_status(status))
