"""The mesh loop: endpoints, policies and rollouts become what callers are shown."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import grpc

from plait_scheduler.domain.endpoints import Endpoints, parse
from plait_scheduler.domain.events import Event, Figures, WorkerAttached
from plait_scheduler.domain.mesh import Mesh, build, services_of
from plait_scheduler.domain.mesh_shares import shared
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.rollout import Split
from plait_scheduler.loops.loop import Counts, Loop

PoliciesOf = Callable[[str], Awaitable[Sequence[MethodPolicy]]]
Splits = Mapping[str, Split]


class MeshLoop(Loop):
    """Publishes whenever something changed; what happens meanwhile is in the next picture."""

    name = "mesh"

    def __init__(
        self,
        policies_of: PoliciesOf,
        publish: Callable[[Mesh], None],
        splits: Callable[[], Splits | None],
    ) -> None:
        """`policies_of` reads what is in force for a service; it may raise AioRpcError. `splits`
        are those of rollouts; None: not known yet, and nothing is shown until then.
        """
        super().__init__()
        self._policies_of = policies_of
        self._publish = publish
        self._splits = splits
        # Those that callers are shown.
        self._shown: Splits | None = None
        self._endpoints = Endpoints()
        self._policies: dict[str, Sequence[MethodPolicy]] = {}
        # Services whose contract has changed, or could not be read.
        self._stale: set[str] = set()
        self._changed = asyncio.Event()

    def add(self, event: Event, now_ms: int) -> None:
        """Takes in what happened."""
        if isinstance(event, WorkerAttached) and event.endpoint and not parse(event.endpoint):
            self._log.warning(
                "endpoint.unusable",
                worker=event.worker,
                endpoint=event.endpoint,
                why="an endpoint is an IP address and a port",
            )
        due = self._stale or self._splits() != self._shown
        if self._endpoints.apply(event, now_ms) or (isinstance(event, Figures) and due):
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

    async def wait(self) -> None:
        await self._changed.wait()

    async def run_once(self) -> Counts:
        self._changed.clear()
        splits = self._splits()
        if not self._endpoints.complete or splits is None:
            return {}
        endpoints = self._endpoints.all()
        services = services_of(endpoints)
        await self._read(services)
        self._publish(shared(build(endpoints, self._policies), endpoints, splits))
        self._shown = splits
        self._log.debug("published", services=len(services), endpoints=len(endpoints))
        return {"published": 1}

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
