"""What is decided under load that was recorded from real processes (tests/load/record.py): the
figures are what a broker told, with the noise and the lateness that they have.

Nothing that is decided here acts on them, so a decision must be right over and over.
"""

import itertools
import json
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from google.protobuf import json_format

from plait.control.v1 import control_service_pb2 as pb
from plait_scheduler.broker.events import to_event
from plait_scheduler.domain.allocator import AllocatorConfig, WorkerLoad, WorkerTrack, allocate
from plait_scheduler.domain.breaker import State
from plait_scheduler.domain.events import Figures
from plait_scheduler.domain.gates import Gates
from plait_scheduler.domain.policy import Breaker
from plait_scheduler.domain.scaling import Load, Scaler, ScalingConfig
from plait_scheduler.domain.worker_gates import WorkerGates

RECORDED = Path(__file__).parent / "recorded"
ECHO, INSPECT = "/testing.v1.EchoService/Echo", "/testing.v1.EchoService/Inspect"
BREAKER = Breaker(
    min_calls=20,
    failure_permille=500,
    window_ms=10_000,
    open_ms=5_000,
    open_max_ms=60_000,
    half_open_probes=3,
)
SCALING = ScalingConfig(most=4, wait_ms=200, calm_ms=3_000)


class Recording:
    """Figures with the time at which they came, and when what was done, in milliseconds."""

    def __init__(self, name: str) -> None:
        lines = [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]
        self.marks: dict[str, int] = {
            line["mark"]: line["at_ms"] for line in lines if "mark" in line
        }
        self._told = [(line["at_ms"], line["figures"]) for line in lines if "figures" in line]

    def figures(self, *, early: bool = False) -> Iterator[tuple[int, Figures]]:
        """All that are not early, or all."""
        for at_ms, told in self._told:
            figures = json_format.ParseDict(told, pb.Figures())
            event = to_event(pb.ObserveResponse(figures=figures))
            assert isinstance(event, Figures)
            if early or not event.early:
                yield at_ms, event


def breaker_changes(recording: Recording, *, early: bool) -> list[tuple[int, str, State]]:
    gates = Gates()
    return [
        (at_ms, change.name, change.state)
        for at_ms, figures in recording.figures(early=early)
        for change in gates.observe(
            at_ms, figures.methods, {each.method: BREAKER for each in figures.methods}
        )
    ]


def windows_of(recording: Recording) -> dict[str, list[tuple[int, int]]]:
    """The windows that each worker is given, with the time; the first is what it had."""
    tracks: dict[str, WorkerTrack] = {}
    given: dict[str, list[tuple[int, int]]] = {}
    for at_ms, figures in recording.figures():
        loads = [WorkerLoad(worker, "g") for worker in figures.workers]
        allocation = allocate(AllocatorConfig(), tracks, loads, figures.interval_ms)
        tracks = dict(allocation.tracks)
        for worker in figures.workers:
            before = given.setdefault(worker.worker, [(at_ms, worker.window)])
            window = allocation.windows.get(worker.worker, before[-1][1])
            before.append((at_ms, window))
    return given


def processes_of(recording: Recording, config: ScalingConfig) -> list[tuple[int, int]]:
    """How many processes there are to be, whenever that changes."""
    scaler, now, found = Scaler(config), 1, list[tuple[int, int]]()
    queues = frozenset({"echo.sleep"})
    for at_ms, figures in recording.figures():
        workers: Set[str] = {worker.worker for worker in figures.workers}
        wanted = scaler.decide(at_ms, now, Load.of(figures, queues, workers))
        if wanted != now:
            found.append((at_ms, wanted))
        now = wanted
    return found


def test_a_breaker_opens_soon_after_its_downstream_went_and_closes_after_it_came_back():
    recording = Recording("outage")
    (opened, _, state), *between, (closed, _, last) = breaker_changes(recording, early=True)
    assert (state, last) == (State.OPEN, State.CLOSED)
    assert not [change for change in between if change[2] is State.CLOSED]
    assert 0 < opened - recording.marks["gone"] < 500
    assert 0 < closed - recording.marks["back"] <= BREAKER.open_ms


def test_without_early_figures_it_opens_by_the_next_ones():
    recording = Recording("outage")
    opened = breaker_changes(recording, early=False)[0][0]
    assert 500 < opened - recording.marks["gone"] < 2_500


@pytest.mark.parametrize("early", [True, False])
def test_only_the_method_that_fails_has_a_breaker_that_opens(early: bool):
    assert {name for _, name, _ in breaker_changes(Recording("outage"), early=early)} == {ECHO}


@pytest.mark.parametrize("name", ["slow", "burst"])
def test_no_breaker_opens_where_nothing_fails(name: str):
    assert breaker_changes(Recording(name), early=True) == []


@pytest.mark.parametrize("name", ["outage", "slow", "burst"])
def test_no_worker_is_closed_off_for_what_others_suffer_too_or_for_being_slow(name: str):
    gates = WorkerGates()
    for at_ms, figures in Recording(name).figures(early=True):
        assert gates.observe(at_ms, figures.workers, lambda _: "g", early=figures.early) == []


def test_a_worker_that_stands_still_has_less_than_its_peers_and_as_much_again_later():
    recording = Recording("slow")
    *others, victim = (given for _, given in sorted(windows_of(recording).items()))
    slow, well = recording.marks["slow"] + 2_000, recording.marks["well"]
    during = [window for at_ms, window in victim if slow <= at_ms < well]
    assert max(during) < min(window for other in others for _, window in other[1:])
    assert victim[-1][1] > during[-1]
    # Times that differ by less than the deadband move no window.
    least = min(other[-1][1] for other in others)
    assert victim[-1][1] * (1 + AllocatorConfig().deadband) >= least


def test_windows_of_real_workers_do_not_go_to_and_fro():
    recording = Recording("slow")
    *others, victim = (given for _, given in sorted(windows_of(recording).items()))
    for given in others:
        moves = [b - a for (_, a), (_, b) in itertools.pairwise(given) if a != b]
        # One when the worker becomes known, and one that mends it.
        assert len(moves) <= 2, moves
    falls = [at_ms for (_, a), (at_ms, b) in itertools.pairwise(victim) if b < a]
    assert all(at_ms < recording.marks["well"] + 2_000 for at_ms in falls)


def test_a_burst_brings_one_more_process_for_as_long_as_it_lasts():
    recording = Recording("burst")
    (grown, more), (shrunk, less) = processes_of(recording, SCALING)
    assert (more, less) == (2, 1)
    assert 0 < grown - recording.marks["burst"] < 3_000
    assert shrunk - recording.marks["over"] >= SCALING.calm_ms


def test_what_may_wait_longer_brings_nothing():
    patient = ScalingConfig(most=4, wait_ms=10_000)
    assert processes_of(Recording("burst"), patient) == []
