"""The scaling loop: how many processes workers need, from the figures of their queues."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from plait_scheduler.domain.directory import WorkerEntry
from plait_scheduler.domain.events import Figures
from plait_scheduler.domain.routes import method_of
from plait_scheduler.domain.scaling import Load, Scaler, ScalingConfig
from plait_scheduler.loops.loop import Counts, Loop

# Targets that others ask for; the one that was not asked for longest goes, and each that was not
# asked for so long.
ASKED_MAX = 1_000
ASKED_FOR_MS = 600_000
# How long whoever asks waits for figures. They come every second, at least once a minute.
PATIENCE_SECONDS = 5.0

QueueOf = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Local:
    """A worker whose processes are started and stopped here."""

    # Names it.
    name: str
    # What is decided by.
    config: ScalingConfig
    # Whether a worker, by its id, runs in one of its processes.
    owns: Callable[[str], bool]
    # How many of its processes there are to be now.
    count: Callable[[], int]
    # Makes it so many. Does not wait for it.
    scale: Callable[[int], None]


@dataclass(slots=True)
class _Asked:
    """A worker whose processes somebody else starts and stops."""

    scaler: Scaler
    queues: frozenset[str]
    # When it was asked for last.
    asked_ms: int
    # The latest decision; None: there was none yet.
    wanted: int | None = None
    active: bool = False


class ScalingLoop(Loop):
    """Always works on the newest figures."""

    name = "scaling"

    def __init__(
        self,
        workers: Callable[[], Iterable[WorkerEntry]],
        queue_of: QueueOf,
        monotonic_ms: Callable[[], int],
        local: Iterable[Local] = (),
    ) -> None:
        """`queue_of` tells the queue of a method; it may raise AioRpcError."""
        super().__init__()
        self._workers = workers
        self._queue_of = queue_of
        self._monotonic_ms = monotonic_ms
        self._local = [(each, Scaler(each.config)) for each in local]
        self._asked: dict[str, _Asked] = {}
        self._newest: Figures | None = None
        self._arrived = asyncio.Event()
        # Set after the turn, and another one in its place.
        self._turn = asyncio.Event()

    def add(self, figures: Figures) -> None:
        """Takes figures in place of those that still wait."""
        self._newest = figures
        self._arrived.set()

    async def ask(
        self, key: str, config: ScalingConfig, queues: frozenset[str]
    ) -> tuple[int, bool] | None:
        """How many processes somebody else's worker needs, and whether there is anything to do. The
        first time it waits for figures; None: there were none. Raises ValueError for a config that
        makes no sense.
        """
        now_ms = self._monotonic_ms()
        asked = self._asked.pop(key, None)
        if asked is None or (asked.scaler.config, asked.queues) != (config, queues):
            asked = _Asked(Scaler(config), queues, now_ms)
        asked.asked_ms = now_ms
        self._asked[key] = asked
        while len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        if asked.wanted is None:
            await self.decided()
        return None if asked.wanted is None else (asked.wanted, asked.active)

    async def decided(self) -> None:
        """Returns after the next decisions, when there were none for a while, or when it ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._turn.wait()

    async def run(self) -> None:
        """Runs until it is cancelled. What others asked for is forgotten then."""
        try:
            await super().run()
        finally:
            self._asked.clear()
            self._wake()

    async def wait(self) -> None:
        await self._arrived.wait()

    async def run_once(self) -> Counts:
        figures, self._newest = self._newest, None
        self._arrived.clear()
        if figures is None:
            return {}
        now_ms = self._monotonic_ms()
        serves = await self._serves()
        changed = self._scale(now_ms, figures, serves)
        for key, asked in list(self._asked.items()):
            if now_ms - asked.asked_ms >= ASKED_FOR_MS:
                del self._asked[key]
            else:
                self._answer(now_ms, key, asked, figures, serves)
        self._wake()
        return {"scaled": changed}

    def _wake(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()

    def _scale(self, now_ms: int, figures: Figures, serves: Mapping[str, frozenset[str]]) -> int:
        """Decides for our own workers. Returns how many of them have another number now."""
        changed = 0
        for local, scaler in self._local:
            owned = {worker for worker in serves if local.owns(worker)}
            if not owned:
                # They are about to start; which queues are theirs is not known yet.
                continue
            queues = frozenset().union(*(serves[worker] for worker in owned))
            load = Load.of(figures, queues, owned)
            before = local.count()
            wanted = scaler.decide(now_ms, before, load)
            if wanted != before:
                changed += 1
                self._tell(local.name, before, wanted, load)
                local.scale(wanted)
        return changed

    def _answer(
        self,
        now_ms: int,
        key: str,
        asked: _Asked,
        figures: Figures,
        serves: Mapping[str, frozenset[str]],
    ) -> None:
        """Decides for somebody else's worker. What was asked for counts as being there: that it
        takes its time to start is no reason to want less.
        """
        load = Load.of(
            figures, asked.queues, {each for each in serves if serves[each] & asked.queues}
        )
        before = load.workers if asked.wanted is None else asked.wanted
        asked.wanted = asked.scaler.decide(now_ms, before, load)
        asked.active = load.active
        if asked.wanted != before:
            self._tell(key, before, asked.wanted, load)

    async def _serves(self) -> dict[str, frozenset[str]]:
        """The queues of each attached worker, by its id."""
        found = {}
        for entry in self._workers():
            queues = set()
            for method in {method_of(route) for route in entry.attached.methods}:
                if (queue := await self._queue_of(method)) is not None:
                    queues.add(queue)
            found[entry.attached.worker] = frozenset(queues)
        return found

    def _tell(self, name: str, before: int, wanted: int, load: Load) -> None:
        self._log.info(
            "scaled",
            worker=name,
            before=before,
            wanted=wanted,
            ready=load.ready,
            in_flight=load.in_flight,
            wait_ms=load.wait_ms,
        )
