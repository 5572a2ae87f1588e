"""The schedules of a mesh: read once, changed by compare-and-swap, and carried out.

A run is written down as pending, then submitted under a key that says schedule and time, then
recorded. Killed between any two of these, whoever comes next does the same again and finds the same
task; a second scheduler that decides at once loses the swap, and reads what the first one decided.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
import structlog

from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.broker.submitter import (
    NAME_METADATA,
    TIME_METADATA,
    Outcome,
    Submitter,
    Wanted,
)
from plait_scheduler.domain import schedule_decision as decision
from plait_scheduler.domain.schedule import Cause, Fire, Schedule, State
from plait_scheduler.domain.schedule_times import NoTimes, Times, TimesError, parse_times
from plait_scheduler.schedules.records import Record, ScheduleRecords, Versioned

# Bounds the memory and the reading of a scheduler that takes over.
SCHEDULES_MAX = 10_000
# Writers of one key are this scheduler and, for a moment, the one it took over from.
SWAPS_MAX = 5
# When what the broker did not take, or answer, is tried again.
RETRY_MS = 1000


class NoScheduleError(LookupError):
    """There is no schedule of this name."""


class TooManySchedulesError(Exception):
    """There are as many as there may be."""


@dataclass(slots=True)
class _Kept:
    """A schedule as it was last read or written."""

    versioned: Versioned
    times: Times
    # Whoever changes it or carries it out.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # When it is to be looked at next; None: when it changes.
    wake_ms: int | None = 0

    @property
    def schedule(self) -> Schedule:
        return self.versioned.record.schedule

    @property
    def state(self) -> State:
        return self.versioned.record.state


class Book:
    """Errors are grpc.aio.AioRpcError where not said otherwise."""

    def __init__(
        self, records: ScheduleRecords, submitter: Submitter, now_ms: Callable[[], int]
    ) -> None:
        self._records = records
        self._submitter = submitter
        self._now_ms = now_ms
        self._kept: dict[str, _Kept] = {}
        self._loaded = False
        self._resets = 0
        self._loading = asyncio.Lock()
        self._log = structlog.get_logger("schedules")
        # Set when something is to be looked at earlier than was known.
        self.changed = asyncio.Event()

    @property
    def is_loaded(self) -> bool:
        """Whether the schedules are known."""
        return self._loaded

    def reset(self) -> None:
        """A new observation begins: another scheduler may have written meanwhile."""
        self._loaded = False
        self._resets += 1
        self._submitter.forget()
        self.changed.set()

    def forget_methods(self) -> None:
        """Contracts have changed: what is known of methods is asked for again."""
        self._submitter.forget()
        self.changed.set()

    async def load(self) -> None:
        """Reads all of them, where they are not known."""
        async with self._loading:
            while not self._loaded:
                resets = self._resets
                before = {name: kept.versioned for name, kept in self._kept.items()}
                found = await self._records.all()
                for name in found.keys() | before.keys():
                    kept = self._kept.get(name)
                    if (kept and kept.versioned) is not before.get(name):
                        # Written or removed here meanwhile, which is later.
                        continue
                    if name in found:
                        self._keep(found[name])
                    else:
                        del self._kept[name]
                self._loaded = resets == self._resets

    def due(self) -> list[str]:
        """Names of schedules that are to be looked at now."""
        now_ms = self._now_ms()
        return [
            name
            for name, kept in self._kept.items()
            if kept.wake_ms is not None and kept.wake_ms <= now_ms and not kept.lock.locked()
        ]

    def wake_ms(self) -> int | None:
        """When the next one is to be looked at; None: when something changes."""
        return min(
            (
                kept.wake_ms
                for kept in self._kept.values()
                if kept.wake_ms is not None and not kept.lock.locked()
            ),
            default=None,
        )

    def get(self, name: str) -> Record:
        """One. Raises NoScheduleError."""
        return self._find(name).versioned.record

    def times(self, name: str) -> Times:
        """When it runs. Raises NoScheduleError."""
        return self._find(name).times

    def all(self) -> list[Record]:
        """All of them, by name."""
        return [kept.versioned.record for _, kept in sorted(self._kept.items())]

    async def put(self, schedule: Schedule) -> bool:
        """Creates a schedule or changes what is declared of it; says whether there was none. Its
        times must be valid. Raises TooManySchedulesError.
        """
        for _ in range(SWAPS_MAX):
            now_ms = self._now_ms()
            kept = self._kept.get(schedule.name)
            if kept is None and len(self._kept) >= SCHEDULES_MAX:
                raise TooManySchedulesError
            state = State(now_ms, now_ms)
            if kept is not None:
                if kept.schedule == schedule:
                    return False
                state = decision.changed(kept.schedule, schedule, kept.state, now_ms)
            before = kept.versioned if kept else None
            if await self._write(Record(schedule, state), before):
                return kept is None
        raise VersionMismatchError(schedule.name)

    async def change(self, name: str, how: Callable[[State], State]) -> Record:
        """Changes how it is with a schedule. Raises NoScheduleError."""
        for _ in range(SWAPS_MAX):
            kept = self._find(name)
            record = Record(kept.schedule, how(kept.state))
            if record == kept.versioned.record or await self._write(record, kept.versioned):
                return self._find(name).versioned.record
        raise VersionMismatchError(name)

    async def delete(self, name: str) -> None:
        """Removes a schedule. Raises NoScheduleError."""
        for _ in range(SWAPS_MAX):
            kept = self._find(name)
            try:
                await self._records.remove(kept.versioned)
            except VersionMismatchError:
                await self._read(name)
                continue
            if self._kept.get(name) is kept:
                del self._kept[name]
            return
        raise VersionMismatchError(name)

    async def carry_out(self, name: str) -> int:
        """Decides and submits what is due of one schedule; returns how many runs that was."""
        kept = self._kept.get(name)
        if kept is None:
            return 0
        async with kept.lock:
            try:
                if not kept.state.pending:
                    await self._decide(kept)
                return await self._submit_pending(kept) if kept.state.pending else 0
            except NoScheduleError:
                return 0
            except (VersionMismatchError, grpc.aio.AioRpcError):
                # It is tried again, but not at once.
                kept.wake_ms = self._now_ms() + RETRY_MS
                raise

    async def trigger(self, name: str, request_id: str) -> str:
        """Starts a run now and returns its task. Raises NoScheduleError, and AioRpcError also
        where the task is refused.
        """
        fire = Fire(self._now_ms(), Cause.TRIGGER, request_id)
        kept = self._find(name)
        async with kept.lock:
            outcome = await self._submit(self._find(name).schedule, [fire])
            if outcome[0].error is not None:
                raise outcome[0].error
            task = outcome[0].task
            now_ms = self._now_ms()

            def recorded(state: State) -> State:
                if any(run.task == task for run in state.runs):
                    return state
                return decision.submitted(state, fire, task, now_ms)

            await self.change(name, recorded)
        return task

    async def _decide(self, kept: _Kept) -> None:
        """Writes down what is due."""
        for _ in range(SWAPS_MAX):
            schedule, times, state = kept.schedule, kept.times, kept.state
            now_ms = self._now_ms()
            busy = False
            if decision.needs_previous(schedule, times, state, now_ms):
                busy = not await self._submitter.is_finished(state.last_task)
            after = decision.decide(schedule, times, state, now_ms, busy=busy)
            if after == state:
                kept.wake_ms = decision.wake_ms(schedule, times, state, now_ms)
                return
            if await self._write(Record(schedule, after), kept.versioned):
                return
            self._find(schedule.name)
        raise VersionMismatchError(kept.schedule.name)

    async def _submit_pending(self, kept: _Kept) -> int:
        """Submits what is written down, and records what became of it. What the broker does not
        take now stays pending.
        """
        name = kept.schedule.name
        fires = kept.state.pending[: decision.BACKFILL_BATCH]
        for fire in fires:
            if fire.cancel:
                await self._submitter.cancel(fire.cancel, f"schedule {name} runs again")
        outcomes = await self._submit(kept.schedule, fires)
        now_ms = self._now_ms()

        def settled(state: State) -> State:
            for fire, outcome in zip(fires, outcomes, strict=True):
                if fire not in state.pending:
                    continue
                if outcome.error is None:
                    state = decision.submitted(state, fire, outcome.task, now_ms)
                elif not outcome.is_transient:
                    state = decision.refused(state, fire, outcome.error.details() or "")
            return state

        await self.change(name, settled)
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        if errors:
            self._log.warning("schedule.refused", schedule=name, why=errors[0].details())
            kept.wake_ms = now_ms + RETRY_MS
        return len(fires) - len(errors)

    async def _submit(self, schedule: Schedule, fires: Sequence[Fire]) -> list[Outcome]:
        wanted = [
            Wanted(
                _key(schedule.name, fire),
                ((NAME_METADATA, schedule.name), (TIME_METADATA, text_of(fire.fire_ms))),
            )
            for fire in fires
        ]
        return await self._submitter.submit(
            schedule.method, schedule.request, schedule.priority, wanted
        )

    def _find(self, name: str) -> _Kept:
        kept = self._kept.get(name)
        if kept is None:
            raise NoScheduleError(name)
        return kept

    async def _write(self, record: Record, before: Versioned | None) -> bool:
        """Writes and keeps; False where another scheduler has written, which is read then."""
        name = record.schedule.name
        try:
            versioned = await self._records.write(record, before)
        except VersionMismatchError:
            await self._read(name)
            return False
        self._keep(versioned)
        return True

    async def _read(self, name: str) -> None:
        versioned = await self._records.of(name)
        if versioned is not None:
            self._keep(versioned)
        else:
            self._kept.pop(name, None)

    def _keep(self, versioned: Versioned) -> None:
        """Takes a record in. Whoever holds the schedule, to wait for it, sees what it becomes."""
        schedule = versioned.record.schedule
        kept = self._kept.get(schedule.name)
        if kept is None:
            kept = self._kept[schedule.name] = _Kept(versioned, self._times(schedule))
        elif kept.schedule != schedule:
            kept.times = self._times(schedule)
        kept.versioned = versioned
        kept.wake_ms = decision.wake_ms(schedule, kept.times, kept.state, self._now_ms())
        self.changed.set()

    def _times(self, schedule: Schedule) -> Times:
        """None where this program cannot read them, as when a time zone has been abolished."""
        try:
            return times_of(schedule)
        except TimesError as error:
            self._log.warning("schedule.unreadable", schedule=schedule.name, error=str(error))
            return NoTimes()


def text_of(ms: int) -> str:
    """A time as text: "2026-11-23T03:00:00Z", with milliseconds where there are any."""
    moment = datetime.fromtimestamp(ms / 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    precision = "milliseconds" if ms % 1000 else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def times_of(schedule: Schedule) -> Times:
    """When it runs. Raises TimesError."""
    return parse_times(schedule.cron, schedule.every_ms, schedule.anchor_ms, schedule.timezone)


def _key(name: str, fire: Fire) -> str:
    if fire.cause is Cause.TRIGGER:
        return f"schedule/{name}/trigger/{fire.request_id}"
    return f"schedule/{name}/{text_of(fire.fire_ms)}"
