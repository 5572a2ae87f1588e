"""Processes follow the load: soon up, late down, and not to and fro."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.scaling import Load, Scaler, ScalingConfig

CONFIG = ScalingConfig(least=1, most=10)
SECOND = 1000
SLOTS = 10
# Of an attempt; so one process ends 20 a second.
LATENCY_MS = 500
# From the decision until a new process takes work.
START_MS = 3 * SECOND


@dataclass
class Plant:
    """Tasks that arrive, wait in one queue and take as long as one another, in steps of 100 ms."""

    scaler: Scaler = field(default_factory=lambda: Scaler(CONFIG))
    now_ms: int = 0
    backlog: float = 0.0
    processes: int = 1
    ready_at: list[int] = field(default_factory=list)
    # Time, processes, and what a task waits, at each decision.
    story: list[tuple[int, int, int]] = field(default_factory=list)

    def run(self, seconds: int, rate: Callable[[int], float]) -> None:
        for _ in range(seconds):
            done = 0.0
            for _ in range(10):
                self.now_ms += 100
                serving = self.serving()
                self.backlog += rate(self.now_ms) / 10
                ended = min(self.backlog, serving * SLOTS * 100 / LATENCY_MS)
                self.backlog -= ended
                done += ended
            self.decide(done)

    def serving(self) -> int:
        return max(1, self.processes - sum(at > self.now_ms for at in self.ready_at))

    def decide(self, done: float) -> None:
        serving = self.serving()
        capacity = serving * SLOTS * SECOND / LATENCY_MS
        waits = int(self.backlog * SECOND / capacity)
        running = min(serving * SLOTS, math.ceil(done * LATENCY_MS / SECOND))
        load = Load(
            ready=int(self.backlog),
            oldest_ms=waits,
            running=running,
            workers=serving,
            slots=serving * SLOTS,
            window=2 * serving * SLOTS,
            in_flight=min(2 * serving * SLOTS, running + int(self.backlog)),
            ended=int(done),
            busy_ms=int(done) * LATENCY_MS,
        )
        wanted = self.scaler.decide(self.now_ms, self.processes, load)
        assert CONFIG.least <= wanted <= CONFIG.most
        if wanted > self.processes:
            self.ready_at += [self.now_ms + START_MS] * (wanted - self.processes)
        self.processes = wanted
        self.story.append((self.now_ms, wanted, waits))

    def changes(self, since_ms: int = 0) -> list[int]:
        """By how many processes it changed, each time."""
        counts = [count for at, count, _ in self.story if at >= since_ms]
        return [b - a for a, b in itertools.pairwise(counts) if a != b]


def test_a_step_is_followed_up_at_once_and_down_late():
    plant = Plant()
    plant.run(60, lambda _: 10)
    assert plant.processes == 1
    began = plant.now_ms
    plant.run(120, lambda _: 110)
    # Six are needed; some more work the backlog off, and may go when it is gone.
    assert 6 <= plant.processes <= CONFIG.most
    up = [change > 0 for change in plant.changes(began)]
    assert up == sorted(up, reverse=True)
    enough = next(at for at, count, _ in plant.story if count >= 6)
    assert enough - began <= 15 * SECOND
    worst = max(waits for at, _, waits in plant.story if at >= began)
    # What the doubling costs while new processes start.
    assert worst <= 20 * SECOND
    calm = [waits for at, _, waits in plant.story if at >= began + 60 * SECOND]
    assert max(calm) <= CONFIG.wait_ms
    ended = plant.now_ms
    plant.run(20, lambda _: 10)
    # Not while the calm is young.
    assert plant.changes(ended) == []
    plant.run(600, lambda _: 10)
    assert plant.processes == 1
    assert all(change == -1 for change in plant.changes(ended))
    assert max(waits for at, _, waits in plant.story if at >= ended) <= CONFIG.wait_ms


@pytest.mark.parametrize("mean", [15, 30, 50, 72, 90, 120])
def test_noise_is_not_followed(mean: int):
    noise = random.Random(mean)
    plant = Plant()
    plant.run(300, lambda _: mean)
    settled = plant.now_ms
    plant.run(3600, lambda _: mean * noise.uniform(0.5, 1.5))
    # At most one process to and fro around what is needed, and that seldom.
    assert len(plant.changes(settled)) <= 4
    late = [waits > CONFIG.wait_ms for at, _, waits in plant.story if at >= settled]
    assert sum(late) <= len(late) // 100


def test_a_load_at_the_edge_is_tried_ever_more_seldom():
    plant = Plant()
    # One process does 20 a second: a little more than one at night, a little less by day.
    plant.run(2 * 3600, lambda now_ms: 30 if (now_ms // (90 * SECOND)) % 2 else 5)
    hour = 3600 * SECOND
    assert len(plant.changes(hour)) <= len(plant.changes()) / 2


def full(**what: int) -> Load:
    """One worker holds all that it may."""
    return Load(running=20, workers=1, slots=10, window=20, in_flight=20, **what)


def test_what_waits_for_something_else_needs_no_worker():
    scaler = Scaler(CONFIG)
    # A limit, or a breaker: there is room, and it waits.
    held = Load(ready=500, oldest_ms=60_000, workers=1, slots=10, window=20, in_flight=15)
    for second in range(120):
        assert scaler.decide(second * SECOND, 1, held) == 1


def test_nobody_is_added_while_nobody_is_there():
    scaler = Scaler(CONFIG)
    for second in range(120):
        assert scaler.decide(second * SECOND, 1, Load(ready=500, oldest_ms=60_000)) == 1


def test_one_slow_figure_changes_nothing():
    scaler = Scaler(CONFIG)
    late = full(ready=5, oldest_ms=5000)
    assert scaler.decide(1000, 1, late) == 1
    assert scaler.decide(2000, 1, full()) == 1
    assert scaler.decide(3000, 1, late) == 1
    assert scaler.decide(4000, 1, late) == 2
    # It is given time to attach.
    assert scaler.decide(5000, 2, late) == 2
    assert scaler.decide(6000, 2, late) == 2
    assert scaler.decide(7000, 2, late) == 4


def test_a_long_queue_counts_before_its_first_task_is_old():
    scaler = Scaler(CONFIG)
    load = full(ready=1000, oldest_ms=100, ended=20, busy_ms=10_000)
    assert load.wait_ms == 50_000
    assert scaler.decide(1000, 1, load) == 1
    assert scaler.decide(2000, 1, load) == 2


def test_nothing_to_do_needs_nobody_if_that_is_allowed():
    scaler = Scaler(ScalingConfig(least=0, most=2))
    assert scaler.decide(0, 0, Load()) == 0
    assert scaler.decide(1000, 0, Load(ready=1)) == 1
    assert scaler.decide(2000, 1, Load(slots=10)) == 1
    assert scaler.decide(40_000, 1, Load(slots=10)) == 0
    assert scaler.decide(41_000, 1, Load(running=1, slots=10)) == 1


def test_a_process_at_work_is_not_too_many():
    scaler = Scaler(ScalingConfig(least=0, most=2))
    for second in range(120):
        assert scaler.decide(second * SECOND, 1, Load(running=1, slots=10)) == 1


@given(
    st.lists(
        st.builds(
            Load,
            ready=st.integers(0, 10**9),
            oldest_ms=st.integers(0, 10**12),
            running=st.integers(0, 10**6),
            workers=st.integers(0, 100),
            slots=st.integers(0, 10**6),
            window=st.integers(0, 10**6),
            in_flight=st.integers(0, 10**6),
            ended=st.integers(0, 10**6),
            busy_ms=st.integers(0, 10**12),
        ),
        max_size=100,
    ),
    st.integers(0, 20),
)
def test_it_stays_within_its_bounds(loads: list[Load], processes: int):
    config = ScalingConfig(least=2, most=9, calm_ms=2000)
    scaler = Scaler(config)
    for second, load in enumerate(loads):
        wanted = scaler.decide(second * SECOND, processes, load)
        assert config.least <= wanted <= config.most
        if config.least <= processes <= config.most:
            assert processes - 1 <= wanted <= 2 * processes
        processes = wanted


@pytest.mark.parametrize(
    "config",
    [
        ScalingConfig(least=-1),
        ScalingConfig(least=3, most=2),
        ScalingConfig(least=0, most=0),
        ScalingConfig(wait_ms=0),
        ScalingConfig(late_figures=0),
        ScalingConfig(settle_ms=-1),
        ScalingConfig(calm_ms=0),
        ScalingConfig(busy_permille=0),
        ScalingConfig(busy_permille=1001),
    ],
)
def test_what_makes_no_sense_is_refused(config: ScalingConfig):
    with pytest.raises(ValueError, match=r"processes|times|share"):
        Scaler(config)
