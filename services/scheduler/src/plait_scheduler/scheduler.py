"""The scheduler as a whole: its loops, its server and its one connection, put together."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable

import grpc
import structlog

from plait_scheduler.broker.channel import open_channel
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.control import Control
from plait_scheduler.broker.key_value import KeyValue
from plait_scheduler.broker.policy_book import PolicyBook
from plait_scheduler.broker.work import WorkInFlight
from plait_scheduler.contracts.records import Records
from plait_scheduler.contracts.reviewer import Reviewer
from plait_scheduler.domain.directory import Directory
from plait_scheduler.domain.events import ContractAnnounced, Event, Figures
from plait_scheduler.loops.allocator import AllocatorLoop, AllocatorLoopConfig
from plait_scheduler.loops.breaker import BreakerLoop
from plait_scheduler.loops.mesh import MeshLoop
from plait_scheduler.loops.observer import Audience, Observer, ObserverConfig
from plait_scheduler.loops.registry import RegistryConfig, RegistryLoop
from plait_scheduler.loops.standby import CLAIM_KEY, Standby, StandbyConfig
from plait_scheduler.server import Server, Servicers
from plait_scheduler.servicers.breaker import BreakerServicer
from plait_scheduler.servicers.contract_review import ContractReviewServicer
from plait_scheduler.servicers.directory import DirectoryServicer
from plait_scheduler.settings import Settings
from plait_scheduler.xds.control_plane import ControlPlane
from plait_scheduler.xds.discovery import DiscoveryServicer
from plait_scheduler.xds.load import Loads, LoadServicer

# Where the others find the scheduler: its address as text.
ADDRESS_KEY = "scheduler/address"
# Taking the address out of the key space must not hold a shutdown up.
FAREWELL_SECONDS = 1.0


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds on a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


class Scheduler:
    """One scheduler. It may be killed at any time: what it must know again is in the broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id = f"scheduler-{uuid.uuid4().hex[:12]}"
        self._log = structlog.get_logger("scheduler")
        self._connected = False
        self._address = ""
        self._directory = Directory()
        self._channel = open_channel(settings.broker)
        self._key_value = KeyValue(self._channel)
        control = Control(self._channel)
        records = Records(self._key_value)
        work = WorkInFlight(self._channel)
        contracts = Contracts(self._channel)
        reviewer = Reviewer(contracts, records, work, now_ms)
        self._plane = ControlPlane()
        self._mesh = MeshLoop(contracts.policies, self._plane.publish)
        self._registry = RegistryLoop(
            RegistryConfig(self._id, settings.dev),
            control,
            reviewer,
            records,
            self._directory.contracts_of,
            now_ms,
            self._on_contracts,
        )
        self._allocator = AllocatorLoop(AllocatorLoopConfig(), control, self._directory.group_of)
        self._policies = PolicyBook(contracts)
        self._breaker = BreakerLoop(control, self._policies, monotonic_ms)
        self._standby = Standby(StandbyConfig(), self._key_value)
        self._observer = Observer(
            ObserverConfig(self._id, settings.figures_interval_ms),
            control,
            Audience(
                self._on_connecting,
                self._on_connected,
                self._on_disconnected,
                self._on_displaced,
                self._on_event,
            ),
        )
        loads = Loads()
        servicers = Servicers(
            DirectoryServicer(self._directory, lambda: self._connected, self._plane, loads),
            BreakerServicer(self._breaker.gates, lambda: self._connected, monotonic_ms),
            ContractReviewServicer(
                reviewer,
                records,
                lambda: self._connected,
                self._directory.contracts_of,
                now_ms,
                tolerant=settings.dev,
            ),
            DiscoveryServicer(self._plane, now_ms),
            LoadServicer(loads),
        )
        self._server = Server(servicers, settings.dev)
        self._on_ready: Callable[[str], None] = lambda _: None

    async def run(self, stopping: asyncio.Event, on_ready: Callable[[str], None]) -> None:
        """Runs until `stopping`, then drains. Tells its address once, when it observes the broker
        for the first time.

        Raises RuntimeError where its port is in use.
        """
        self._on_ready = on_ready
        self._address = await self._server.start(self._settings.listen)
        self._log.info("listening", address=self._address, broker=self._settings.broker)
        try:
            async with asyncio.TaskGroup() as group:
                runs = (
                    self._observer.run,
                    self._registry.run,
                    self._allocator.run,
                    self._breaker.run,
                    self._mesh.run,
                )
                running = [group.create_task(run()) for run in runs]
                await stopping.wait()
                await self._drain()
                for task in running:
                    task.cancel()
        finally:
            await self._server.stop(0)
            await self._channel.close()
        self._log.info("stopped")

    async def _drain(self) -> None:
        """Finishes the turn under way and takes leave."""
        self._log.info("draining")
        await self._server.drain()
        self._plane.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_ms / 1000):
                await self._registry.finish()
                await self._allocator.finish()
                await self._breaker.finish()
        if self._connected:
            await self._take_leave()

    async def _take_leave(self) -> None:
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                for key in (ADDRESS_KEY, CLAIM_KEY):
                    entry = await self._key_value.get(key)
                    if entry is not None and entry.value == self._address.encode():
                        await self._key_value.delete(key, entry.version)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            self._log.info("farewell.failed", error=str(error))

    async def _on_connecting(self) -> None:
        await self._standby.claim(self._address)

    async def _on_connected(self) -> None:
        self._directory.reset()
        self._registry.reset()
        self._allocator.reset()
        self._breaker.reset()
        self._mesh.reset()
        await self._key_value.put(ADDRESS_KEY, self._address.encode())
        self._connected = True
        await self._server.set_serving(True)
        self._on_ready(self._address)
        self._on_ready = lambda _: None

    async def _on_disconnected(self) -> None:
        self._connected = False
        await self._server.set_serving(False)

    async def _on_displaced(self) -> None:
        # The other one knows who is there.
        self._plane.close()
        await self._standby.until_gone(self._address)

    def _on_contracts(self, services: Iterable[str]) -> None:
        self._mesh.changed(services)
        self._policies.forget()

    async def _on_event(self, event: Event) -> None:
        self._directory.apply(event, now_ms())
        self._mesh.add(event, now_ms())
        if isinstance(event, ContractAnnounced):
            await self._registry.add(event)
        elif isinstance(event, Figures):
            self._allocator.add(event)
            self._breaker.add(event)
