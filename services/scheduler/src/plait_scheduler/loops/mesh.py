"""The mesh loop: endpoints, policies and faults become what callers are shown."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import grpc

from plait_scheduler.domain.endpoints import Endpoints, parse
from plait_scheduler.domain.events import Event, Figures, WorkerAttached
from plait_scheduler.domain.mesh import Mesh, build, services_of
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.loops.loop import Counts, Loop
from plait_scheduler.xds.faults import Faults

if TYPE_CHECKING:
    from plait_scheduler.domain.call_fault import CallFault

# A wall clock may be set: how late the end of a fault is seen at most.
PAUSE_MS = 1000

PoliciesOf = Callable[[str], Awaitable[Sequence[MethodPolicy]]]


class MeshLoop(Loop):
    """Publishes whenever something changed; what happens meanwhile is in the next picture."""

    name = "mesh"

    def __init__(
        self,
        policies_of: PoliciesOf,
        faults: Faults,
        publish: Callable[[Mesh], None],
        now_ms: Callable[[], int],
    ) -> None:
        """`policies_of` reads what is in force for a service; it may raise AioRpcError."""
        super().__init__()
        self._policies_of = policies_of
        self._faults = faults
        self._publish = publish
        self._now_ms = now_ms
        self._endpoints = Endpoints()
        self._policies: dict[str, Sequence[MethodPolicy]] = {}
        # Services whose contract has changed, or could not be read.
        self._stale: set[str] = set()
        self._faulty: Mapping[str, CallFault] = {}
        self._faults_unread = False
        # One event, whatever has changed.
        self._changed = faults.changed

    def add(self, event: Event, now_ms: int) -> None:
        """Takes in what happened."""
        if isinstance(event, WorkerAttached) and event.endpoint and not parse(event.endpoint):
            self._log.warning(
                "endpoint.unusable",
                worker=event.worker,
                endpoint=event.endpoint,
                why="an endpoint is an IP address and a port",
            )
        unread = bool(self._stale) or self._faults_unread
        if self._endpoints.apply(event, now_ms) or (isinstance(event, Figures) and unread):
            self._changed.set()

    def changed(self, services: Iterable[str]) -> None:
        """Other contracts are in force for these services."""
        self._stale |= self._policies.keys() & set(services)
        if self._stale:
            self._changed.set()

    def reset(self) -> None:
        """A new observation begins."""
        self._endpoints.reset()
        # Another scheduler may have decided on contracts meanwhile.
        self._stale |= self._policies.keys()
        self._faults.reset()

    async def wait(self) -> None:
        while not self._changed.is_set():
            end_ms = self._faults.next_end_ms()
            left_ms = None if end_ms is None else end_ms - self._now_ms()
            if left_ms is not None and left_ms <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_ms and min(left_ms, PAUSE_MS) / 1000):
                    await self._changed.wait()

    async def run_once(self) -> Counts:
        self._changed.clear()
        ended = await self._faults.sweep()
        if not self._endpoints.complete:
            return {}
        endpoints = self._endpoints.all()
        services = services_of(endpoints)
        await self._read(services)
        await self._read_faults()
        self._publish(build(endpoints, self._policies, self._faulty))
        self._log.debug("published", services=len(services), endpoints=len(endpoints))
        return {"published": 1, "faults_ended": ended}

    async def _read_faults(self) -> None:
        """Those that cannot be read are as they were, but for their ends."""
        try:
            self._faulty = await self._faults.all()
        except grpc.aio.AioRpcError as error:
            self._log.warning("faults.unread", error=error.details())
            now_ms, known = self._now_ms(), self._faulty.items()
            self._faulty = {name: each for name, each in known if not each.is_over(now_ms)}
            self._faults_unread = True
        else:
            self._faults_unread = False

    async def _read(self, services: set[str]) -> None:
        """Reads what is missing. A service whose policies cannot be read is shown with the last
        ones known, and read again with the next figures.
        """
        for gone in self._policies.keys() - services:
            del self._policies[gone]
        self._stale &= services
        for service in sorted((services - self._policies.keys()) | self._stale):
            self._stale.add(service)
            try:
                self._policies[service] = await self._policies_of(service)
            except grpc.aio.AioRpcError as error:
                self._log.warning("policies.unread", service=service, error=error.details())
            else:
                self._stale.discard(service)
