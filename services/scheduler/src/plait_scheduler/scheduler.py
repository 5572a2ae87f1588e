"""The scheduler as a whole: its loops, its server and its one connection, put together."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import grpc
import structlog

from plait_scheduler.broker.channel import open_channel
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.control import Control
from plait_scheduler.broker.epoch import Epoch
from plait_scheduler.broker.key_value import KeyValue
from plait_scheduler.broker.leader_keys import Leader, LeaderKeys
from plait_scheduler.broker.policy_book import PolicyBook
from plait_scheduler.broker.submitter import Submitter
from plait_scheduler.broker.work import WorkInFlight
from plait_scheduler.contracts.records import Records
from plait_scheduler.contracts.reviewer import Reviewer
from plait_scheduler.domain.directory import Directory
from plait_scheduler.domain.events import ContractAnnounced, Event, Figures, LostAttempts
from plait_scheduler.domain.processes import LocalProcess
from plait_scheduler.limits.book import LimitBook
from plait_scheduler.loops.allocator import AllocatorLoop, AllocatorLoopConfig
from plait_scheduler.loops.breaker import BreakerLoop
from plait_scheduler.loops.leadership import Leadership, LeadershipConfig, Reign
from plait_scheduler.loops.limit import LimitLoop
from plait_scheduler.loops.loop import Loop
from plait_scheduler.loops.mesh import MeshLoop
from plait_scheduler.loops.observer import Audience, Observer, ObserverConfig
from plait_scheduler.loops.registry import RegistryConfig, RegistryLoop
from plait_scheduler.loops.rollout import RolloutLoop
from plait_scheduler.loops.scaling import Local, ScalingLoop
from plait_scheduler.loops.schedule import ScheduleLoop
from plait_scheduler.loops.share import ShareLoop
from plait_scheduler.metrics.collector import Breakers, SchedulerCollector, Sources, Standing
from plait_scheduler.metrics.door import Door
from plait_scheduler.rollouts.book import RolloutBook
from plait_scheduler.schedules.book import Book
from plait_scheduler.schedules.declared import Declared
from plait_scheduler.schedules.records import ScheduleRecords
from plait_scheduler.server import Server, Servicers
from plait_scheduler.servicers.breaker import BreakerServicer
from plait_scheduler.servicers.contract_review import ContractReviewServicer
from plait_scheduler.servicers.directory import Calls, DirectoryServicer, WorkerBreakers
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.external_scaler import ExternalScalerServicer
from plait_scheduler.servicers.fault import FaultServicer
from plait_scheduler.servicers.limit import LimitServicer
from plait_scheduler.servicers.rollout import RolloutServicer
from plait_scheduler.servicers.schedule import ScheduleServicer
from plait_scheduler.servicers.share import ShareServicer
from plait_scheduler.servicers.supervisor import SupervisorServicer
from plait_scheduler.settings import Settings
from plait_scheduler.shares.book import ShareBook
from plait_scheduler.xds.control_plane import ControlPlane
from plait_scheduler.xds.discovery import DiscoveryServicer
from plait_scheduler.xds.faults import Faults
from plait_scheduler.xds.load import Loads, LoadServicer

# Where the others find the scheduler that leads: its address as text.
ADDRESS_KEY = "scheduler/address"
# Giving the lead away must not hold a shutdown up.
FAREWELL_SECONDS = 1.0


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds on a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Supervised:
    """Processes that are started and stopped beside this scheduler."""

    # Workers whose processes are scaled.
    workers: Sequence[Local] = ()
    # Is told of workers that went away with attempts under way.
    lost: Callable[[LostAttempts], None] = lambda _: None
    # Tells all of them.
    processes: Callable[[], Sequence[LocalProcess]] = tuple


class Scheduler:
    """One scheduler, which leads or stands by. It may be killed at any time: what it must know
    again is in the broker.
    """

    def __init__(self, settings: Settings, supervised: Supervised | None = None) -> None:
        """`supervised`: default none."""
        supervised = supervised or Supervised()
        self._lost = supervised.lost
        self._settings = settings
        self._id = f"scheduler-{uuid.uuid4().hex[:12]}"
        self._log = structlog.get_logger("scheduler")
        self._connected = False
        self._address = ""
        self._directory = Directory()
        self._channel = open_channel(settings.broker)
        # Everything that is written is a leader's, but for the key by which it becomes one.
        epoch = self._epoch = Epoch()
        self._key_value = KeyValue(self._channel, epoch)
        control = Control(self._channel, epoch)
        records = Records(self._key_value)
        work = WorkInFlight(self._channel)
        contracts = Contracts(self._channel)
        reviewer = Reviewer(contracts, records, work, now_ms)
        limits = LimitBook(self._key_value, control, contracts.policies_of, now_ms)
        self._limit = LimitLoop(limits, self._leads, now_ms)
        shares = ShareBook(self._key_value, control, now_ms)
        self._share = ShareLoop(shares, self._leads, now_ms)
        self._plane = ControlPlane()
        self._faults = Faults(self._key_value, now_ms)
        rollouts = RolloutBook(self._key_value, control)
        loads = Loads()
        self._rollout = RolloutLoop(rollouts, loads.take, now_ms)
        self._mesh = MeshLoop(
            contracts.policies, self._faults, rollouts, self._plane.publish, now_ms
        )
        self._registry = RegistryLoop(
            RegistryConfig(self._id, settings.dev),
            control,
            reviewer,
            records,
            limits,
            self._directory.contracts_of,
            now_ms,
            self._on_contracts,
        )
        self._allocator = AllocatorLoop(AllocatorLoopConfig(), control, self._directory.group_of)
        self._policies = PolicyBook(contracts)
        self._breaker = BreakerLoop(control, self._policies, self._directory.group_of, monotonic_ms)
        self._scaling = ScalingLoop(
            self._directory.workers, self._queue_of, monotonic_ms, supervised.workers
        )
        submitter = Submitter(self._channel)
        book = Book(ScheduleRecords(self._key_value), submitter, now_ms)
        self._schedule = ScheduleLoop(book, Declared(book, contracts), self._leads, now_ms)
        self._observer = Observer(
            ObserverConfig(self._id, settings.figures_interval_ms),
            control,
            Audience(self._on_connected, self._on_disconnected, self._on_event),
        )
        self._leadership = Leadership(
            LeadershipConfig(self._id, settings.lease_ms),
            LeaderKeys(KeyValue(self._channel), self._key_value),
            epoch,
            Reign(self._term, self._on_standing_by),
            (now_ms, monotonic_ms),
        )
        doors = Doors(self._leads, self._leader)
        servicers = Servicers(
            DirectoryServicer(
                self._directory,
                doors,
                Calls(self._plane, loads),
                WorkerBreakers(self._breaker.workers, monotonic_ms),
            ),
            BreakerServicer(self._breaker.gates, doors, monotonic_ms),
            ContractReviewServicer(
                reviewer,
                records,
                doors,
                self._directory.contracts_of,
                now_ms,
                tolerant=settings.dev,
            ),
            LimitServicer(limits, contracts, doors, now_ms),
            ShareServicer(shares, contracts, doors, now_ms),
            ScheduleServicer(book, submitter, doors, now_ms),
            DiscoveryServicer(self._plane, now_ms),
            LoadServicer(loads),
            ExternalScalerServicer(self._scaling, doors),
            SupervisorServicer(supervised.processes, doors),
            RolloutServicer(rollouts, contracts, self._directory, doors, now_ms),
            FaultServicer(self._faults, doors, now_ms),
        )
        self._server = Server(servicers, settings.dev)
        self._metrics = Door(SchedulerCollector(self._sources(book, rollouts)))
        # Where metrics are, once it runs; "": nowhere.
        self.metrics_address = ""
        self._on_ready: Callable[[str], None] = lambda _: None

    async def run(self, stopping: asyncio.Event, on_ready: Callable[[str], None]) -> None:
        """Runs until `stopping`, then drains. Tells its address once: when it observes the broker
        for the first time, or knows another one that leads and lives.

        Raises RuntimeError where its port is in use.
        """
        self._on_ready = on_ready
        self._address = await self._server.start(self._settings.listen)
        self._log.info("listening", address=self._address, broker=self._settings.broker)
        try:
            if self._settings.metrics_listen is not None:
                self.metrics_address = await self._metrics.start(self._settings.metrics_listen)
            async with asyncio.TaskGroup() as group:
                leading = group.create_task(self._leadership.run(self._address))
                await stopping.wait()
                await self._drain(leading)
        finally:
            await self._server.stop(0)
            await self._metrics.stop()
            await self._channel.close()
        self._log.info("stopped")

    async def _term(self) -> None:
        """What a leader does, until another one leads."""
        self._breaker.begin()
        async with asyncio.TaskGroup() as group:
            for loop in self._loops():
                group.create_task(loop.run())
            group.create_task(self._observer.run())

    def _loops(self) -> tuple[Loop, ...]:
        return (
            self._registry,
            self._allocator,
            self._breaker,
            self._mesh,
            self._scaling,
            self._schedule,
            self._rollout,
            self._limit,
            self._share,
        )

    def _sources(self, book: Book, rollouts: RolloutBook) -> Sources:
        """What metrics are read from."""
        return Sources(
            lambda: Standing(self._leads(), self._connected, self._epoch.number or 0),
            self._loops(),
            Breakers(self._breaker.gates.breakers, self._breaker.workers.breakers),
            book.all,
            rollouts.all,
        )

    async def _drain(self, leading: "asyncio.Task[None]") -> None:
        """Finishes the turn under way and takes leave."""
        self._log.info("draining")
        await self._server.drain()
        self._plane.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_ms / 1000):
                await self._registry.finish()
                await self._allocator.finish()
                await self._breaker.finish()
                await self._schedule.finish()
                await self._rollout.finish()
                await self._limit.finish()
                await self._share.finish()
        leads = self._leads()
        leading.cancel()
        await asyncio.wait([leading])
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                if leads:
                    await self._key_value.delete(ADDRESS_KEY)
                await self._leadership.resign()
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            self._log.info("farewell.failed", error=str(error))

    def _leads(self) -> bool:
        return self._connected and self._leadership.leads()

    def _leader(self) -> str:
        """Where another one leads; "": nobody does, as far as is known."""
        address = self._leadership.leader.address
        return address if address != self._address else ""

    async def _on_standing_by(self, leader: Leader) -> None:
        self._plane.close(leader.address)
        self._tell_ready()

    def _tell_ready(self) -> None:
        self._on_ready(self._address)
        self._on_ready = lambda _: None

    async def _on_connected(self) -> None:
        self._directory.reset()
        self._registry.reset()
        self._allocator.reset()
        self._breaker.reset()
        self._mesh.reset()
        self._schedule.reset()
        self._rollout.reset()
        self._limit.reset()
        self._share.reset()
        await self._key_value.put(ADDRESS_KEY, self._address.encode())
        self._connected = True
        await self._server.set_serving(True)
        self._tell_ready()

    async def _on_disconnected(self) -> None:
        self._connected = False
        await self._server.set_serving(False)

    def _on_contracts(self, services: Collection[str]) -> None:
        self._mesh.changed(services)
        self._policies.forget()
        self._schedule.contracts_changed(services)

    async def _on_event(self, event: Event) -> None:
        self._directory.apply(event, now_ms())
        self._mesh.add(event, now_ms())
        if isinstance(event, ContractAnnounced):
            await self._registry.add(event)
        elif isinstance(event, Figures) and event.early:
            self._breaker.add(event)
        elif isinstance(event, Figures):
            self._allocator.add(event)
            self._breaker.add(event)
            self._scaling.add(event)
            self._rollout.add(event)
            for lost in event.lost:
                self._lost(lost)

    async def _queue_of(self, method: str) -> str | None:
        policy = await self._policies.of(method)
        return policy.queue if policy else None
