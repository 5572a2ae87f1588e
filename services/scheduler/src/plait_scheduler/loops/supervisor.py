"""The supervisor loop: keeps local processes running, and stops them in order."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from plait_scheduler.domain.restart import RestartConfig, RestartHistory, after_death
from plait_scheduler.loops.loop import Counts, Loop
from plait_scheduler.loops.process import Process, ProcessSpec


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """What the supervisor needs to know."""

    # When what died is started again.
    restart: RestartConfig = field(default_factory=RestartConfig)

    def validate(self) -> None:
        """Raises ValueError."""
        self.restart.validate()


@dataclass(frozen=True, slots=True)
class SupervisorEvents:
    """Who is told what."""

    # A process wrote a line: its name and the line.
    line: Callable[[str, str], None]
    # A process ended by itself: its name and exit code.
    died: Callable[[str, int], None]
    # A process was started: its name and process id.
    started: Callable[[str, int], None]


@dataclass(slots=True)
class _Slot:
    """A process that is to run."""

    spec: ProcessSpec
    # When it is to be started, by the loop's clock; None: it runs.
    due: float | None
    process: Process | None = None
    started: float = 0.0
    history: RestartHistory = field(default_factory=RestartHistory)


class SupervisorLoop(Loop):
    """Runs every process that was added until it is stopped."""

    name = "supervisor"

    def __init__(
        self, config: SupervisorConfig, events: SupervisorEvents, rnd: Callable[[], float]
    ) -> None:
        """`rnd` gives random numbers from 0 to 1."""
        config.validate()
        super().__init__()
        self._config = config
        self._events = events
        self._rnd = rnd
        self._slots: dict[str, _Slot] = {}
        self._leaving: set[Process] = set()
        self._changed = asyncio.Event()

    def add(self, spec: ProcessSpec) -> None:
        """Starts a process soon. One of the same name that runs goes on; its next start follows the
        new spec.
        """
        slot = self._slots.get(spec.name)
        if slot is None:
            self._slots[spec.name] = _Slot(spec, due=asyncio.get_running_loop().time())
        else:
            slot.spec = spec
        self._changed.set()

    def pid(self, name: str) -> int | None:
        """The process id of one that runs."""
        slot = self._slots.get(name)
        return slot.process.pid if slot and slot.process else None

    async def stop(self, *names: str) -> None:
        """Stops processes at the same time and forgets them. SIGTERM, then SIGKILL after the grace
        of each.
        """
        async with self._busy:
            slots = [self._slots.pop(name) for name in names if name in self._slots]
            leaving = [slot.process for slot in slots if slot.process is not None]
            # At once: `kill_now` may come before any of the tasks below has begun.
            self._leaving.update(leaving)
        async with asyncio.TaskGroup() as group:
            for process in leaving:
                group.create_task(self._stop(process))

    async def end(self) -> None:
        """Ends everything at once, SIGKILL first."""
        async with self._busy:
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            if slot.process is not None:
                await slot.process.kill()

    def kill_now(self) -> None:
        """SIGKILL to everything, what is being stopped included, without waiting. For the end."""
        running = [slot.process for slot in self._slots.values() if slot.process is not None]
        for process in (*running, *self._leaving):
            process.signal(signal.SIGKILL)

    async def wait(self) -> None:
        dues = [slot.due for slot in self._slots.values() if slot.due is not None]
        deadline = min(dues, default=None)
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def run_once(self) -> Counts:
        self._changed.clear()
        started = died = 0
        for slot in list(self._slots.values()):
            if slot.process is not None and slot.process.code is not None:
                await self._bury(slot, slot.process)
                died += 1
            if slot.due is not None and slot.due <= asyncio.get_running_loop().time():
                await self._start(slot)
                started += 1
        return {"started": started, "died": died}

    async def _start(self, slot: _Slot) -> None:
        name = slot.spec.name
        process = Process(slot.spec, lambda line: self._events.line(name, line), self._changed.set)
        slot.due = None
        slot.started = asyncio.get_running_loop().time()
        await process.start()
        slot.process = process
        self._log.debug("started", process=name, pid=process.pid)
        self._events.started(name, process.pid)

    async def _bury(self, slot: _Slot, process: Process) -> None:
        """It died by itself: what it left behind goes too, and its next start is decided on."""
        now = asyncio.get_running_loop().time()
        code = process.code or 0
        await process.kill()
        slot.process = None
        lived_ms = int((now - slot.started) * 1000)
        decision = after_death(
            self._config.restart, slot.history, lived_ms, int(now * 1000), self._rnd()
        )
        slot.history = decision.history
        slot.due = now + decision.delay_ms / 1000
        self._log.warning(
            "died", process=slot.spec.name, code=code, lived_ms=lived_ms, again_ms=decision.delay_ms
        )
        if decision.loop_began:
            self._log.error(
                "crash loop", process=slot.spec.name, deaths=len(slot.history.deaths_ms)
            )
        self._events.died(slot.spec.name, code)

    async def _stop(self, process: Process) -> None:
        try:
            if not await process.stop():
                self._log.warning("killed", process=process.spec.name, why="grace is over")
        finally:
            self._leaving.discard(process)
