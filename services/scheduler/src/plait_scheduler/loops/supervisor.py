"""The supervisor loop: keeps local processes running, and stops them in order."""

import asyncio
import itertools
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from plait_scheduler.domain.events import LostAttempts
from plait_scheduler.domain.poison import Suspicion
from plait_scheduler.domain.processes import LocalProcess, ProcessState
from plait_scheduler.domain.restart import (
    RestartConfig,
    RestartHistory,
    after_death,
    with_attempts,
)
from plait_scheduler.loops.loop import Counts, Loop
from plait_scheduler.loops.process import Process, ProcessSpec

# Tells a process its name of this life, from which its workers make their ids. At most 31
# characters: the SDKs take no more.
PROCESS_VARIABLE = "PLAIT_PROCESS"
_NAME_MAX = 20
# What a broker tells of the dead comes within seconds of the death; lives before are forgotten.
_LIVES_MAX = 8


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
class _Life:
    """From a start to a death."""

    # What its workers' ids begin with.
    identity: str
    # When it died, by the loop's clock in milliseconds; None: it lives.
    died_ms: int | None = None
    # What the broker told of attempts that were lost with it.
    lost: LostAttempts | None = None


@dataclass(slots=True)
class _Slot:
    """A process that is to run."""

    spec: ProcessSpec
    # When it is to be started, by the loop's clock; None: it runs.
    due: float | None
    process: Process | None = None
    # Since when it runs, or does not.
    since: float = 0.0
    history: RestartHistory = field(default_factory=RestartHistory)
    # The latest lives, newest last.
    lives: list[_Life] = field(default_factory=list)
    deaths: int = 0
    deaths_with_attempts: int = 0
    exit_code: int = 0


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
        self._leaving: dict[Process, _Slot] = {}
        self._suspicions: dict[str, Suspicion] = {}
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

    def owner(self, worker: str) -> str:
        """The name of the process that a worker, by its id, runs or ran in; "": in none of ours."""
        slot, _ = self._life_of(worker)
        return slot.spec.name if slot else ""

    def lost(self, lost: LostAttempts) -> None:
        """A worker went away with attempts under way. If its process died, that was no death of a
        crash loop, and its tasks are suspects.
        """
        slot, life = self._life_of(lost.worker)
        if slot is None or life is None or life.lost is not None:
            return
        life.lost = lost
        if life.died_ms is not None:
            self._excuse(slot, life.died_ms, lost)

    def processes(self) -> list[LocalProcess]:
        """All of them, by name."""
        now = asyncio.get_running_loop().time()
        slots = [(slot, _state(slot)) for slot in self._slots.values()]
        leaving = [(slot, ProcessState.STOPPING) for slot in self._leaving.values()]
        found = [self._shown(slot, state, now) for slot, state in (*slots, *leaving)]
        return sorted(found, key=lambda each: (each.name, each.pid))

    async def stop(self, *names: str) -> None:
        """Stops processes at the same time and forgets them. SIGTERM, then SIGKILL after the grace
        of each.
        """
        async with self._busy:
            slots = [self._slots.pop(name) for name in names if name in self._slots]
            leaving = {slot.process: slot for slot in slots if slot.process is not None}
            now = asyncio.get_running_loop().time()
            # At once: `kill_now` may come before any of the tasks below has begun.
            self._leaving.update((each, replace(of, since=now)) for each, of in leaving.items())
        async with asyncio.TaskGroup() as group:
            for process in leaving:
                group.create_task(self._stop(process))

    async def end(self) -> None:
        """Ends everything at once, SIGKILL first."""
        async with self._busy:
            slots = list(self._slots.values())
            self._slots.clear()
        running = [slot.process for slot in slots if slot.process is not None]
        for process in (*running, *self._leaving):
            await process.kill()

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
        life = _Life(f"{name[:_NAME_MAX]}.{secrets.token_hex(4)}")
        slot.lives = [*slot.lives[1 - _LIVES_MAX :], life]
        environment = {**slot.spec.environment, PROCESS_VARIABLE: life.identity}
        spec = replace(slot.spec, environment=environment)
        process = Process(spec, lambda line: self._events.line(name, line), self._changed.set)
        slot.due = None
        slot.since = asyncio.get_running_loop().time()
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
        lived_ms, now_ms = int((now - slot.since) * 1000), int(now * 1000)
        decision = after_death(self._config.restart, slot.history, lived_ms, now_ms, self._rnd())
        slot.history = decision.history
        slot.due = now + decision.delay_ms / 1000
        slot.since, slot.exit_code = now, code
        slot.deaths += 1
        name, life = slot.spec.name, slot.lives[-1]
        life.died_ms = now_ms
        self._log.warning(
            "died", process=name, code=code, lived_ms=lived_ms, again_ms=decision.delay_ms
        )
        if life.lost is not None:
            self._excuse(slot, now_ms, life.lost)
        elif decision.loop_began:
            self._log.error("crash loop", process=name, deaths=len(slot.history.deaths_ms))
        self._events.died(name, code)

    def _excuse(self, slot: _Slot, died_ms: int, lost: LostAttempts) -> None:
        """A death was with attempts under way."""
        decision = with_attempts(self._config.restart, slot.history, died_ms, self._rnd())
        slot.history = decision.history
        slot.deaths_with_attempts += 1
        if slot.due is not None:
            slot.due = min(slot.due, (died_ms + decision.delay_ms) / 1000)
            self._changed.set()
        name, tasks = slot.spec.name, list(lost.tasks)
        self._log.warning("died with attempts", process=name, attempts=lost.attempts, tasks=tasks)
        suspicion = self._suspicions.setdefault(slot.spec.worker or name, Suspicion())
        if begun := suspicion.died(lost.tasks):
            self._log.warning("poison suspected", process=name, tasks=begun)

    def _life_of(self, worker: str) -> tuple[_Slot, _Life] | tuple[None, None]:
        for slot in itertools.chain(self._slots.values(), self._leaving.values()):
            for life in slot.lives:
                # The SDKs put one of these between it and what is random.
                if worker.startswith((f"{life.identity}-", f"{life.identity}:")):
                    return slot, life
        return None, None

    def _shown(self, slot: _Slot, state: ProcessState, now: float) -> LocalProcess:
        suspicion = self._suspicions.get(slot.spec.worker or slot.spec.name)
        return LocalProcess(
            name=slot.spec.name,
            worker=slot.spec.worker,
            pid=slot.process.pid if slot.process else 0,
            state=state,
            age_ms=int((now - slot.since) * 1000),
            deaths=slot.deaths,
            deaths_with_attempts=slot.deaths_with_attempts,
            exit_code=slot.exit_code,
            suspects=tuple(suspicion.suspects()) if suspicion else (),
        )

    async def _stop(self, process: Process) -> None:
        try:
            if not await process.stop():
                self._log.warning("killed", process=process.spec.name, why="grace is over")
        finally:
            self._leaving.pop(process, None)


def _state(slot: _Slot) -> ProcessState:
    if slot.process is not None:
        return ProcessState.RUNNING
    return ProcessState.CRASH_LOOP if slot.history.looping else ProcessState.RESTARTING
