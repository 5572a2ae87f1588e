"""Two schedulers that carry out one schedule, die between any two steps and lose answers: each time
runs once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait import errors
from plait_scheduler.broker.channel import CALL_SECONDS
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.key_value import ABSENT, Entry, KeyValue, VersionMismatchError
from plait_scheduler.broker.submitter import Outcome, Submitter, Wanted
from plait_scheduler.domain.schedule import Missed, Overlap, Run, Schedule, State
from plait_scheduler.schedules.book import Book, text_of
from plait_scheduler.schedules.declared import Declared
from plait_scheduler.schedules.records import RECORD_PREFIX, Record, ScheduleRecords

START = 1_800_000_000_000
NAME = "often"
SCHEDULE = Schedule(
    NAME, "/a.B/C", every_ms=1000, overlap=Overlap.ALLOW, missed=Missed.ALL, jitter_ms=700
)


class Killed(BaseException):
    """The scheduler is gone."""


class Trouble:
    """What may happen to a request on its way there, and to its answer on its way back."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # Shares of requests, in percent.
        self.killed = 0
        self.lost = 0

    async def on_the_way(self) -> None:
        """Others go on meanwhile."""
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        chance = self.rng.randrange(100)
        if chance < self.killed:
            raise Killed
        if chance < self.killed + self.lost:
            raise errors.new(
                grpc.StatusCode.UNAVAILABLE, errors.Reason.SCHEDULER_UNAVAILABLE, "", {}
            )


class Space(KeyValue):
    """A key space in memory."""

    def __init__(self, trouble: Trouble) -> None:
        self.entries: dict[str, Entry] = {}
        self._trouble = trouble
        self._version = 0
        # What happens once while all entries are on their way.
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def all(self, prefix: str) -> dict[str, Entry]:
        await self._trouble.on_the_way()
        found = {key: entry for key, entry in self.entries.items() if key.startswith(prefix)}
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return found

    async def get(self, key: str) -> Entry | None:
        await self._trouble.on_the_way()
        return self.entries.get(key)

    async def put(
        self,
        key: str,
        value: bytes,
        expected_version: int | None = None,
        *,
        seconds: float = CALL_SECONDS,
    ) -> int:
        await self._trouble.on_the_way()
        self._check(key, expected_version)
        self._version += 1
        version = self._version
        self.entries[key] = Entry(value, version)
        await self._trouble.on_the_way()
        return version

    async def delete(self, key: str, expected_version: int | None = None) -> None:
        await self._trouble.on_the_way()
        self._check(key, expected_version)
        self.entries.pop(key, None)
        await self._trouble.on_the_way()

    def _check(self, key: str, expected_version: int | None) -> None:
        found = self.entries.get(key)
        if expected_version not in (None, found.version if found else ABSENT):
            raise VersionMismatchError(key)


class Tasks(Submitter):
    """A broker's tasks by their keys, none of which ends."""

    def __init__(self, trouble: Trouble) -> None:
        self.tasks: dict[str, str] = {}
        self.refusals: list[grpc.StatusCode] = []
        self._trouble = trouble

    def forget(self) -> None:
        """Nothing is kept of methods."""

    async def submit(
        self, path: str, request: bytes, priority: int | None, wanted: Sequence[Wanted]
    ) -> list[Outcome]:
        await self._trouble.on_the_way()
        if self.refusals:
            refusal = errors.new(self.refusals.pop(0), errors.Reason.QUEUE_FULL, "no", {})
            return [Outcome(error=refusal)] * len(wanted)
        outcomes = [
            Outcome(self.tasks.setdefault(each.key, f"t{len(self.tasks)}")) for each in wanted
        ]
        await self._trouble.on_the_way()
        return outcomes

    async def is_finished(self, task: str) -> bool:
        await self._trouble.on_the_way()
        return False


class World:
    """One broker, and schedulers that come and go."""

    def __init__(self, seed: int) -> None:
        self.now_ms = START
        self.trouble = Trouble(seed)
        self.space = Space(self.trouble)
        self.tasks = Tasks(self.trouble)

    def book(self) -> Book:
        return Book(ScheduleRecords(self.space), self.tasks, lambda: self.now_ms)

    async def step(self, book: Book) -> Book:
        """A scheduler does what is due; where it dies, another one is there in its place."""
        try:
            await book.load()
            for name in book.due():
                await book.carry_out(name)
        except Killed:
            return self.book()
        except (grpc.aio.AioRpcError, VersionMismatchError):
            pass
        return book


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), killed=st.integers(0, 25), lost=st.integers(0, 25))
def test_each_time_runs_once_whoever_dies(seed: int, killed: int, lost: int):
    async def life() -> None:
        world = World(seed)
        books = [world.book(), world.book()]
        await books[0].load()
        await books[0].put(SCHEDULE)
        world.trouble.killed, world.trouble.lost = killed, lost
        for _ in range(60):
            world.now_ms += world.trouble.rng.randrange(1500)
            books = list(await asyncio.gather(*(world.step(each) for each in books)))
        world.trouble.killed = world.trouble.lost = 0
        world.now_ms += 3000
        last = world.book()
        await world.step(last)
        # What was pending came first.
        await world.step(last)
        state = last.get(NAME).state
        times = list(range(START + 1000, state.cursor_ms + 1, 1000))
        assert state.cursor_ms >= world.now_ms - 2000
        assert list(world.tasks.tasks) == [f"schedule/{NAME}/{text_of(ms)}" for ms in times]
        assert (state.run_count, state.missed, state.skipped) == (len(times), 0, 0)
        assert state.pending == ()

    asyncio.run(life())


async def test_a_run_that_is_refused_for_now_is_submitted_later():
    world = World(0)
    book = world.book()
    await book.load()
    await book.put(SCHEDULE)
    world.now_ms += 2000
    world.tasks.refusals = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    await world.step(book)
    assert world.tasks.tasks == {}
    assert book.due() == []
    world.now_ms += 1000
    await world.step(book)
    assert book.get(NAME).state.run_count == 1
    assert book.get(NAME).state.refused == 0


async def test_a_run_that_is_refused_for_good_is_told():
    world = World(0)
    book = world.book()
    await book.load()
    await book.put(SCHEDULE)
    world.now_ms += 2000
    world.tasks.refusals = [grpc.StatusCode.INVALID_ARGUMENT]
    await world.step(book)
    state = book.get(NAME).state
    assert (state.refused, state.last_error, state.pending) == (1, "no", ())
    world.now_ms += 2000
    await world.step(book)
    assert book.get(NAME).state.last_error == ""


async def test_what_another_scheduler_has_written_is_kept():
    world = World(0)
    one, other = world.book(), world.book()
    for book in (one, other):
        await book.load()
    assert await one.put(SCHEDULE)
    # The other one does not know of it yet, and finds it.
    assert not await other.put(SCHEDULE)
    task = await other.trigger(NAME, "r1")
    assert task == await one.trigger(NAME, "r1")
    assert list(world.tasks.tasks) == [f"schedule/{NAME}/trigger/r1"]
    (run,) = one.get(NAME).state.runs
    assert run == Run(START, START, task, run.cause)
    await one.delete(NAME)
    world.now_ms += 5000
    await world.step(other)
    assert list(world.tasks.tasks) == [f"schedule/{NAME}/trigger/r1"]
    assert other.all() == []
    assert RECORD_PREFIX + NAME not in world.space.entries


async def test_what_is_written_while_all_are_read_is_kept():
    world = World(0)
    book = world.book()
    await book.load()
    await book.put(SCHEDULE)
    world.space.meanwhile = lambda: book.put(replace(SCHEDULE, name="new"))
    book.reset()
    await book.load()
    assert [each.schedule.name for each in book.all()] == ["new", NAME]
    world.space.meanwhile = lambda: book.delete("new")
    book.reset()
    await book.load()
    assert [each.schedule.name for each in book.all()] == [NAME]


async def test_an_observation_that_begins_while_all_are_read_reads_them_again():
    world = World(0)
    one, other = world.book(), world.book()
    await other.load()

    async def taken_over() -> None:
        await other.put(SCHEDULE)
        one.reset()

    world.space.meanwhile = taken_over
    await one.load()
    assert one.is_loaded
    assert [each.schedule.name for each in one.all()] == [NAME]


async def test_a_schedule_that_cannot_be_read_holds_up_no_other():
    world = World(0)
    mars = replace(SCHEDULE, name="mars", cron="@daily", every_ms=0, timezone="Mars/Olympus")
    await ScheduleRecords(world.space).write(Record(mars, State(START, START)), None)
    book = world.book()
    await book.load()
    await book.put(SCHEDULE)
    world.now_ms += 2000
    await world.step(book)
    assert book.get(NAME).state.run_count == 1
    assert book.get("mars").state.run_count == 0
    assert book.times("mars").after(0) is None


class ContractsInForce(Contracts):
    """One service, whose contract is nowhere by now; more happens while that is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def services(self) -> Sequence[str]:
        self.asked.append("services")
        return ["a.v1.A"]

    async def in_force(self, service: str) -> None:
        self.asked.append(service)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()


async def test_a_contract_that_changes_while_others_are_read_is_read_next():
    contracts = ContractsInForce()
    declared = Declared(World(0).book(), contracts)

    def meanwhile() -> None:
        declared.changed(["a.v1.A"])
        declared.reset()

    contracts.meanwhile = meanwhile
    assert await declared.carry_over() == 1
    assert await declared.carry_over() == 1
    assert await declared.carry_over() == 0
    assert contracts.asked == ["services", "a.v1.A"] * 2


async def test_a_contract_that_could_not_be_read_is_read_next():
    contracts = ContractsInForce()
    declared = Declared(World(0).book(), contracts)

    def meanwhile() -> None:
        raise Killed

    contracts.meanwhile = meanwhile
    with pytest.raises(Killed):
        await declared.carry_over()
    assert await declared.carry_over() == 1
    assert contracts.asked == ["services", "a.v1.A", "a.v1.A"]
