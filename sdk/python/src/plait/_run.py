"""One attempt inside a worker: the lease, the request, and what became of its handler."""

from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from plait.v1 import task_service_pb2, worker_service_pb2

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from plait._flow import Flow
    from plait._holdings import Holdings
    from plait._served import Served
    from plait.v1.flag_service_pb2 import FlagRule

_NO_FLAGS: "Final[Mapping[str, FlagRule]]" = MappingProxyType({})


class Run:
    """An attempt from the frame that brought it to its outcome."""

    __slots__ = (
        "core",
        "deadline",
        "extra",
        "finished",
        "flags",
        "flags_read",
        "flow",
        "holdings",
        "lease",
        "on_end",
        "payload",
        "runner",
        "served",
        "stopped",
        "verdict",
    )

    def __init__(
        self,
        holdings: "Holdings",
        served: "Served",
        lease: tuple[int, int],
        payload: bytes,
        deadline: float,
        extra: worker_service_pb2.AttemptExtra | None,
    ) -> None:
        self.holdings = holdings
        # The client whose durable calls are children of this run.
        self.core = holdings.core
        self.served = served
        # Task number and fencing token.
        self.lease = lease
        # The serialized request; let go when the handler has it.
        self.payload = payload
        # When its time is over: an instant of time.monotonic().
        self.deadline = deadline
        self.extra = extra
        # The feature flags when its handler begins, and those of them that it has read.
        self.flags: Mapping[str, FlagRule] = _NO_FLAGS
        self.flags_read: Mapping[str, FlagRule] = _NO_FLAGS
        # Set by the first durable call that the handler makes.
        self.flow: Flow | None = None
        # The asyncio task that runs the handler, while one does.
        self.runner: asyncio.Task[None] | None = None
        # Whether it was told to stop, and the failure to report then; None: no outcome is wanted.
        self.stopped = False
        self.verdict: task_service_pb2.Failure | None = None
        # Whether its handler has ended.
        self.finished = False
        # Called once, when it is told to stop or its handler has ended.
        self.on_end: list[Callable[[], None]] | None = None

    def stop(self, verdict: task_service_pb2.Failure | None = None) -> None:
        """Tells the handler to stop; `verdict` is reported for it. Only the first call counts."""
        if self.stopped:
            return
        self.stopped = True
        self.verdict = verdict
        self.ended()
        if self.runner is not None:
            self.runner.cancel()

    def ended(self) -> None:
        """Calls back whoever wants to know of the end."""
        if self.on_end is not None:
            callbacks, self.on_end = self.on_end, None
            for callback in callbacks:
                callback()


current: ContextVar[Run | None] = ContextVar("plait_run", default=None)
