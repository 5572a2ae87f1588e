"""Breakers of workers, by themselves and in a fleet that is simulated."""

import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait_scheduler.domain.breaker import State
from plait_scheduler.domain.events import WorkerFigures
from plait_scheduler.domain.gates import SLACK_MS, Gate
from plait_scheduler.domain.worker_gates import Weight, WorkerGates, excess

PLACE, TIDY = "/s.S/Place", "/s.S/Tidy"
Said = Mapping[str, tuple[int, int]]


def alike(worker: str) -> str:
    """All take one another's work."""
    return ""


def figures(
    said: Mapping[str, Said], permits: Mapping[str, int | None] | None = None
) -> list[WorkerFigures]:
    """Of workers by name."""
    gates = permits or {}
    return [
        WorkerFigures(worker, slots=4, window=8, said=each, permits=gates.get(worker))
        for worker, each in said.items()
    ]


def closed_off(gates: WorkerGates) -> list[str]:
    return [worker for worker, each in gates.breakers().items() if each.state is not State.CLOSED]


def judged(*said: Said, group_of: Callable[[str], str] = alike) -> list[str]:
    """Workers "0", "1", ... that are closed off after one turn."""
    gates = WorkerGates()
    gates.observe(0, figures({str(at): each for at, each in enumerate(said)}), group_of)
    return closed_off(gates)


def test_excess_is_measured_against_the_peers_on_the_same_methods():
    own = {PLACE: Weight(0, 10), TIDY: Weight(10, 0)}
    peers = {PLACE: Weight(0, 50), TIDY: Weight(50, 0)}
    assert excess(own, peers) == (20, 0)
    assert excess(own, {PLACE: Weight(50, 0), TIDY: Weight(50, 0)}) == (20, 0.5)
    # What no peer has done enough of is not compared.
    assert excess(own, {PLACE: Weight(4, 0), TIDY: Weight(50, 0)}) == (10, 0)
    assert excess(own, {}) == (0, 0)


def test_a_worker_that_fails_alone_is_closed_off():
    well = {PLACE: (20, 0)}
    assert judged({PLACE: (0, 10)}, well, well) == ["0"]
    # Fewer outcomes say too little, and so do fewer of its peers.
    assert judged({PLACE: (0, 9)}, well, well) == []
    assert judged({PLACE: (0, 10)}, {PLACE: (2, 0)}, {PLACE: (2, 0)}) == []


def test_a_method_that_fails_everywhere_closes_nobody_off():
    assert judged(*[{PLACE: (0, 50), TIDY: (50, 0)}] * 3) == []
    # Nor does a worker whose share of its tasks is larger.
    assert judged({PLACE: (0, 50)}, *[{PLACE: (0, 10), TIDY: (90, 0)}] * 2) == []


def test_a_worker_without_peers_is_never_closed_off():
    assert judged({PLACE: (0, 100)}) == []
    assert judged({PLACE: (0, 100)}, {PLACE: (100, 0)}, group_of=lambda worker: worker) == []


def test_at_most_half_of_a_group_is_closed_off_the_worst_first():
    ill, worse, well = {PLACE: (2, 18)}, {PLACE: (0, 20)}, {PLACE: (400, 0)}
    assert judged(ill, worse, well) == ["1"]
    assert judged(ill, worse, well, well) == ["0", "1"]


def test_a_group_that_shrinks_takes_its_workers_back():
    gates = WorkerGates()
    ill, well = {PLACE: (0, 10)}, {PLACE: (20, 0)}
    gates.observe(0, figures({"ill": ill, "a": well, "b": well}), alike)
    gates.told(gates.wanted(0, []))
    left = figures({"ill": {}}, {"ill": 0})
    # Early figures do not tell of everybody.
    gates.observe(1_000, left, alike, early=True)
    assert closed_off(gates) == ["ill"]
    gates.observe(2_000, left, alike)
    assert closed_off(gates) == []
    assert gates.wanted(2_000, left) == [Gate("ill", None)]


def test_what_was_long_ago_counts_little():
    gates = WorkerGates()
    well = {PLACE: (20, 0)}
    gates.observe(0, figures({"0": {PLACE: (0, 9)}, "1": well, "2": well}), alike)
    gates.observe(60_000, figures({"0": {PLACE: (0, 5)}, "1": well, "2": well}), alike)
    assert closed_off(gates) == []


def test_what_a_worker_failed_is_not_its_methods_fault():
    gates = WorkerGates()
    well = {PLACE: (20, 0)}
    seen = figures({"0": {PLACE: (1, 19), TIDY: (0, 2)}, "1": well, "2": well})
    gates.observe(0, seen, alike)
    assert gates.excluded(seen) == {PLACE: (1, 19), TIDY: (0, 2)}
    # Later ends there are not counted by the broker.
    gates.observe(1_000, seen, alike)
    assert gates.excluded(seen) == {}


def test_another_scheduler_goes_on_with_the_gates_that_there_are():
    gates = WorkerGates()
    seen = figures({"0": {}, "1": {}, "2": {}}, {"0": 0})
    gates.observe(0, seen, alike)
    assert closed_off(gates) == ["0"]
    assert gates.wanted(0, seen) == [Gate("0", 0, 5_000 + SLACK_MS)]


class Fleet:
    """Workers that share the tasks of two methods, and a broker with gates."""

    def __init__(self, workers: int, seed: int = 0) -> None:
        self.gates = WorkerGates()
        self.random = random.Random(seed)
        self.now_ms = 0
        self.permits: dict[str, int | None] = {f"w{at}": None for at in range(workers)}
        self.burnt = dict.fromkeys(self.permits, 0)
        self.most_closed = 0

    def second(self, ill: Callable[[str, str], float], tasks: int = 60) -> None:
        """One second: `ill` is the share of attempts of a method that fail at a worker."""
        self.now_ms += 1_000
        said: dict[str, dict[str, tuple[int, int]]] = {worker: {} for worker in self.permits}
        for _ in range(tasks):
            open_to = [worker for worker, left in self.permits.items() if left != 0]
            assert open_to, "nobody may take a task"
            worker, method = self.random.choice(open_to), self.random.choice((PLACE, TIDY))
            left = self.permits[worker]
            self.permits[worker] = None if left is None else left - 1
            bad = self.random.random() < ill(worker, method)
            self.burnt[worker] += bad
            good_before, bad_before = said[worker].get(method, (0, 0))
            said[worker][method] = (good_before + (not bad), bad_before + bad)
        seen = figures(said, self.permits)
        self.gates.observe(self.now_ms, seen, alike)
        wanted = self.gates.wanted(self.now_ms, seen)
        for gate in wanted:
            self.permits[gate.name] = gate.permits
        self.gates.told(wanted)
        self.most_closed = max(self.most_closed, len(closed_off(self.gates)))


@pytest.mark.parametrize("workers", [2, 3, 10])
def test_a_bad_host_burns_a_second_and_some_probes_and_comes_back(workers: int):
    fleet = Fleet(workers)
    for _ in range(120):
        fleet.second(lambda worker, _: 1.0 if worker == "w0" else 0.01, tasks=20 * workers)
    # Its share of a second, perhaps of another one, and probes after 5, 15, 35, 75 s.
    assert fleet.burnt["w0"] <= 60 + 3 * 4
    assert closed_off(fleet.gates) == ["w0"]
    for _ in range(75):
        fleet.second(lambda *_: 0.01, tasks=20 * workers)
    assert closed_off(fleet.gates) == []
    assert fleet.permits["w0"] is None


def test_an_outage_of_one_method_closes_nobody_off():
    fleet = Fleet(3)
    for _ in range(60):
        fleet.second(lambda _, method: 0.95 if method == PLACE else 0.0)
    assert fleet.most_closed == 0


def test_probes_that_fail_as_the_peers_do_say_nothing():
    fleet = Fleet(3)
    while fleet.permits["w0"] is None:
        fleet.second(lambda worker, _: float(worker == "w0"))
    while not fleet.permits["w0"]:
        fleet.second(lambda *_: 1.0)
    probed = fleet.burnt["w0"]
    for _ in range(3):
        fleet.second(lambda *_: 1.0)
        assert fleet.permits["w0"] == 3
    assert fleet.burnt["w0"] > probed
    fleet.second(lambda *_: 0.0)
    assert closed_off(fleet.gates) == []


def by_number(shares: list[float]) -> Callable[[str, str], float]:
    """The share of a worker, "w0" being the first."""
    return lambda worker, _: shares[int(worker[1:])]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), min_size=6, max_size=6), max_size=40),
    st.integers(0, 1000),
)
def test_whatever_fails_half_of_the_workers_work_and_all_come_back(
    workers: int, shares: list[list[float]], seed: int
):
    fleet = Fleet(workers, seed)
    for of_workers in shares:
        fleet.second(by_number(of_workers))
        assert len(closed_off(fleet.gates)) <= workers // 2
    for _ in range(150):
        fleet.second(lambda *_: 0.0)
    assert closed_off(fleet.gates) == []
    assert set(fleet.permits.values()) == {None}
