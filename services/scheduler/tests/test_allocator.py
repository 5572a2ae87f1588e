"""Windows: full pipes, fair shares, less for workers that slow down, and no oscillation."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.allocator import (
    Allocation,
    AllocatorConfig,
    WorkerLoad,
    WorkerTrack,
    allocate,
)
from plait_scheduler.domain.events import WorkerFigures

CONFIG = AllocatorConfig()
TURN_MS = 1000


@dataclass
class Worker:
    """A simulated worker with a backlog that never ends: slots serve first in, first out."""

    slots: int
    # What a slot takes for an attempt at a time, in milliseconds.
    slot_ms: Callable[[int], float]
    # Share of attempts that fail at a time.
    failing: Callable[[int], float] = lambda _: 0.0
    # Share by which what is measured is off, either way.
    noise: float = 0.0
    group: str = "g"
    window: int = 0
    # Attempts that have begun but not ended by the end of the last turn.
    rest: float = 0.0
    history: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window = self.window or self.slots

    def turn(self, name: str, at_ms: int, rng: random.Random) -> WorkerLoad:
        took = self.slot_ms(at_ms)
        busy_slots = min(self.slots, self.window)
        self.rest += busy_slots * TURN_MS / took
        ended, self.rest = int(self.rest), self.rest % 1
        # What waits for a slot waits for those before it.
        attempt_ms = took * self.window / busy_slots
        noise = 1 + self.noise * (2 * rng.random() - 1)
        failed = round(ended * self.failing(at_ms))
        figures = WorkerFigures(
            worker=name,
            slots=self.slots,
            window=self.window,
            in_flight=self.window,
            succeeded=ended - failed,
            failed=failed,
            busy_ms=round(ended * attempt_ms * noise),
        )
        self.history.append(self.window)
        return WorkerLoad(figures, self.group)


def simulate(workers: list[Worker], turns: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    tracks: dict[str, WorkerTrack] = {}
    for turn in range(turns):
        loads = [worker.turn(str(i), turn * TURN_MS, rng) for i, worker in enumerate(workers)]
        allocation = allocate(CONFIG, tracks, loads, TURN_MS)
        tracks = dict(allocation.tracks)
        for name, window in allocation.windows.items():
            workers[int(name)].window = window


def step(before: float, after: float, at_turn: int) -> Callable[[int], float]:
    return lambda at_ms: before if at_ms < at_turn * TURN_MS else after


def constant(value: float) -> Callable[[int], float]:
    return lambda _: value


def turns_of_direction(history: list[int]) -> int:
    """How often a series turns around."""
    moves = [b - a for a, b in itertools.pairwise(history) if a != b]
    return sum(1 for a, b in itertools.pairwise(moves) if (a > 0) != (b > 0))


def test_quick_handlers_get_work_ahead_for_every_slot():
    worker = Worker(slots=16, slot_ms=constant(2))
    simulate([worker], 5)
    assert worker.window == 32


def test_slow_handlers_get_nothing_that_would_wait():
    worker = Worker(slots=4, slot_ms=constant(10_000))
    simulate([worker], 60)
    assert set(worker.history) == {4}


@pytest.mark.parametrize("slot_ms", [60, 100, 200, 400])
def test_work_ahead_waits_no_longer_than_the_horizon(slot_ms: int):
    worker = Worker(slots=64, slot_ms=constant(slot_ms))
    simulate([worker], 30)
    ahead = worker.window - worker.slots
    waits_ms = ahead * slot_ms / worker.slots
    assert 0 < waits_ms <= CONFIG.horizon_ms * (1 + CONFIG.deadband)


def test_equal_workers_get_equal_windows():
    workers = [Worker(slots=8, slot_ms=constant(30)) for _ in range(3)]
    simulate(workers, 30)
    assert len({tuple(worker.history) for worker in workers}) == 1


def test_slots_weigh():
    workers = [Worker(slots=slots, slot_ms=constant(100)) for slots in (10, 20, 40)]
    simulate(workers, 30)
    windows = [worker.window for worker in workers]
    assert windows[1] == 2 * windows[0]
    assert windows[2] == 4 * windows[0]


def test_nothing_is_decided_before_there_are_outcomes():
    idle = WorkerFigures(worker="w", slots=4, window=8, in_flight=3)
    assert allocate(CONFIG, {}, [WorkerLoad(idle)], TURN_MS).windows == {}


def test_a_window_over_a_smaller_offer_is_cut_at_once():
    resized = WorkerFigures(worker="w", slots=2, window=16)
    assert allocate(CONFIG, {}, [WorkerLoad(resized)], TURN_MS).windows == {"w": 4}


def test_a_step_in_latency_shrinks_the_window_and_its_end_gives_it_back():
    slow_from, slow_to = 60, 100

    def slot_ms(at_ms: int) -> float:
        return 200.0 if slow_from <= at_ms // TURN_MS < slow_to else 20.0

    sick, well = Worker(16, slot_ms, noise=0.1), Worker(16, constant(20), noise=0.1)
    simulate([sick, well], 200)
    assert sick.history[slow_from - 1] == 32
    assert sick.history[slow_from + 10] <= 4
    assert min(sick.history) >= 1
    assert sick.history[-1] == 32
    assert set(well.history[10:]) == {32}
    # Down once, up once.
    assert turns_of_direction(sick.history[10:]) == 1


def test_a_lone_worker_that_gets_in_its_own_way_keeps_half_its_slots():
    """More at once makes each slower, as on one processor: less at once costs nothing."""
    worker = Worker(16, constant(10))
    worker.slot_ms = lambda at_ms: (
        10 if at_ms < 60 * TURN_MS else 10.0 * min(worker.window, worker.slots)
    )
    simulate([worker], 120)
    assert set(worker.history[80:]) == {8}


def test_a_lone_worker_whose_work_has_become_slower_gets_all_its_slots_back():
    worker = Worker(16, step(20, 2000, at_turn=60))
    simulate([worker], 120)
    assert 8 in worker.history
    assert worker.history.count(8) <= CONFIG.trial_turns + 1
    assert set(worker.history[80:]) == {16}


def test_all_slow_alike_keep_their_slots():
    workers = [Worker(16, step(20, 400, at_turn=60)) for _ in range(4)]
    simulate(workers, 120)
    assert all(worker.window >= 16 for worker in workers)


def test_a_new_norm_is_accepted_in_the_end():
    worker = Worker(16, step(20, 90, at_turn=60))
    simulate([worker], 60 + 2 * CONFIG.norm_turns)
    assert worker.window >= 16


def test_a_worker_that_fails_what_others_can_do_gets_less():
    sick = Worker(16, constant(20), failing=step(0, 1, at_turn=60))
    simulate([sick, Worker(16, constant(20)), Worker(16, constant(20))], 90)
    assert sick.window <= 2


def test_failures_of_all_are_nobodys_fault():
    workers = [Worker(16, constant(20), failing=constant(1)) for _ in range(3)]
    simulate(workers, 90)
    assert all(worker.window == 32 for worker in workers)


def warm(slots: int, slot_ms: int) -> WorkerTrack:
    worker = Worker(slots, constant(slot_ms))
    tracks: dict[str, WorkerTrack] = {}
    for turn in range(20):
        load = worker.turn("w", turn * TURN_MS, random.Random(0))
        tracks = dict(allocate(CONFIG, tracks, [load], TURN_MS).tracks)
    return tracks["w"]


def hold(track: WorkerTrack, slots: int, in_flight: int, turns: int) -> list[int]:
    """The windows of a worker that holds so many and ends none."""
    windows, window, tracks = [], 2 * slots, {"w": track}
    for _ in range(turns):
        figures = WorkerFigures(worker="w", slots=slots, window=window, in_flight=in_flight)
        allocation: Allocation = allocate(CONFIG, tracks, [WorkerLoad(figures)], TURN_MS)
        tracks = dict(allocation.tracks)
        window = allocation.windows.get("w", window)
        windows.append(window)
    return windows


def test_a_full_worker_without_outcomes_gets_less_and_less():
    windows = hold(warm(16, 20), slots=16, in_flight=32, turns=60)
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] == 1


def test_a_worker_that_is_not_full_always_gets_one_more():
    windows = hold(warm(16, 20), slots=16, in_flight=3, turns=60)
    assert windows[-1] == 4


def test_an_idle_worker_is_not_stalled():
    assert set(hold(warm(16, 20), slots=16, in_flight=0, turns=60)) == {32}


def test_workers_that_are_gone_are_forgotten():
    tracks = {"gone": warm(4, 20)}
    figures = WorkerFigures(worker="here", slots=4, window=4)
    assert set(allocate(CONFIG, tracks, [WorkerLoad(figures)], TURN_MS).tracks) == {"here"}


FIGURES = st.builds(
    WorkerFigures,
    worker=st.sampled_from(["a", "b", "c", "d"]),
    slots=st.integers(1, 5000),
    window=st.integers(1, 10_000),
    in_flight=st.integers(0, 10_000),
    suspended=st.integers(0, 100),
    succeeded=st.integers(0, 1_000_000),
    failed=st.integers(0, 1_000_000),
    busy_ms=st.integers(0, 10**12),
)
TURNS = st.lists(st.lists(FIGURES, unique_by=lambda f: f.worker, max_size=4), max_size=30)


@given(turns=TURNS, interval_ms=st.integers(1, 60_000))
def test_windows_stay_within_one_and_twice_the_slots(
    turns: list[list[WorkerFigures]], interval_ms: int
):
    tracks: dict[str, WorkerTrack] = {}
    for turn in turns:
        allocation = allocate(CONFIG, tracks, [WorkerLoad(f) for f in turn], interval_ms)
        tracks = dict(allocation.tracks)
        for figures in turn:
            window = allocation.windows.get(figures.worker, figures.window)
            assert 1 <= window <= 2 * figures.slots


@given(
    slots=st.integers(1, 512),
    slot_ms=st.floats(0.1, 20_000),
    noise=st.floats(0, 0.2),
    seed=st.integers(0, 1000),
)
def test_steady_work_leaves_the_window_alone(slots: int, slot_ms: float, noise: float, seed: int):
    worker = Worker(slots, constant(slot_ms), noise=noise)
    simulate([worker], 120, seed)
    assert len(set(worker.history[60:])) == 1
    assert turns_of_direction(worker.history) <= 1


@given(
    before=st.floats(1, 500),
    factor=st.floats(0.02, 50),
    noise=st.floats(0, 0.2),
    seed=st.integers(0, 1000),
)
def test_a_step_moves_the_window_one_way_then_back_at_most(
    before: float, factor: float, noise: float, seed: int
):
    worker = Worker(32, step(before, before * factor, at_turn=60), noise=noise)
    peer = Worker(32, constant(before), noise=noise)
    simulate([worker, peer], 300, seed)
    assert turns_of_direction(worker.history[20:]) <= 2
    assert turns_of_direction(peer.history[20:]) <= 1


@given(slots=st.integers(2, 64), base_ms=st.floats(6, 200), seed=st.integers(0, 100))
def test_a_worker_that_contends_with_itself_does_not_swing(slots: int, base_ms: float, seed: int):
    """More at once makes each slower, as on one processor: less of a window makes it look well."""
    worker = Worker(slots, constant(base_ms), noise=0.1)
    alone = worker.slot_ms

    def contended(at_ms: int) -> float:
        crowd = min(worker.window, worker.slots) if at_ms >= 60 * TURN_MS else 1
        return alone(at_ms) * crowd

    worker.slot_ms = contended
    simulate([worker, Worker(slots, alone, noise=0.1)], 400, seed)
    # Each swing must wait four times as long as the one before.
    assert turns_of_direction(worker.history[60:]) <= 6
