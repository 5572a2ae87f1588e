"""Breakers of methods, and the gates that they want."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.breaker import HALF_OPEN_MAX_MS, MethodBreaker, Outcomes, State
from plait_scheduler.domain.events import MethodFigures
from plait_scheduler.domain.gates import SLACK_MS, Gate, Gates
from plait_scheduler.domain.policy import Breaker

VECTORS = Path(__file__).parents[3] / "interop/vectors/resilience.json"
CONFIG = Breaker(
    min_calls=20,
    failure_permille=500,
    window_ms=10_000,
    open_ms=5_000,
    open_max_ms=60_000,
    half_open_probes=3,
)
METHOD = "/s.S/M"
UNAVAILABLE = 14
NOTHING = Outcomes()


class Calls:
    """Drives a breaker call by call, with the permits and generations that the broker has."""

    def __init__(self, config: dict[str, int]) -> None:
        kept = {name: config[name] for name in Breaker.__dataclass_fields__}
        assert config["buckets"] == 10
        assert config["half_open_max_ms"] == HALF_OPEN_MAX_MS
        self.breaker = MethodBreaker(Breaker(**kept), 0)
        self.generation = self.out = 0

    def acquire(self, t: int) -> dict[str, Any]:
        self._observe(t)
        state = self.breaker.state
        probes = self.breaker.config.half_open_probes
        refused = state is State.OPEN or (state is State.HALF_OPEN and self.out >= probes)
        if refused:
            left = self.breaker.left_open_ms(t)
            return {"allow": False, "state": state.name, "retry_after_ms": left}
        if state is State.HALF_OPEN:
            self.out += 1
            self._observe(t)
        return {"allow": True, "state": state.name, "gen": self.generation}

    def report(self, t: int, gen: int, outcome: str) -> dict[str, Any]:
        self._observe(t)
        counted = gen == self.generation and self.breaker.state is not State.OPEN
        if counted and outcome == "ignore":
            self.out -= self.breaker.state is State.HALF_OPEN
            counted = False
        elif counted:
            self._observe(t, Outcomes(good=outcome == "success", bad=outcome == "failure"))
        return {"state": self.breaker.state.name, "counted": counted}

    def _observe(self, t: int, outcomes: Outcomes = NOTHING) -> None:
        before = self.breaker.state, self.breaker.openings
        permits = self.breaker.config.half_open_probes - self.out
        self.breaker.observe(t, outcomes, permits)
        if before != (self.breaker.state, self.breaker.openings):
            self.generation, self.out = self.generation + 1, 0


def vectors() -> list[Any]:
    found = json.loads(VECTORS.read_text())["vectors"]
    return [pytest.param(each, id=each["name"]) for each in found if each["kind"] == "breaker"]


@pytest.mark.parametrize("vector", vectors())
def test_it_is_the_machine_of_the_shared_vectors(vector: dict[str, Any]):
    calls = Calls(vector["config"])
    operations = {"acquire": calls.acquire, "report": calls.report}
    for step in vector["steps"]:
        given = dict(step["in"])
        operation: Any = operations[given.pop("op")]
        assert operation(**given) == step["out"], step


def test_codes_that_are_the_callers_fault_say_that_it_is_well():
    codes = [1] * 17
    assert Outcomes.of(codes) == Outcomes(good=10, bad=6, ignored=1)
    assert Outcomes.of(()) == Outcomes()


def test_half_open_without_tasks_it_stays_half_open():
    breaker = MethodBreaker(CONFIG, 0)
    breaker.observe(0, Outcomes(bad=20))
    breaker.observe(5_000, Outcomes())
    for now in range(6_000, 600_000, 1_000):
        breaker.observe(now, Outcomes(), permits=3)
    assert breaker.state is State.HALF_OPEN
    breaker.observe(600_000, Outcomes(), permits=2)
    breaker.observe(600_000 + HALF_OPEN_MAX_MS, Outcomes(), permits=2)
    assert (breaker.state, breaker.left_open_ms(600_000 + HALF_OPEN_MAX_MS)) == (State.OPEN, 10_000)


class Broker:
    """What a broker does with gates: a hundred tasks a second wait, and go as they may."""

    def __init__(self, config: Breaker = CONFIG) -> None:
        self.gates = Gates()
        self.config = config
        self.now = 0
        self.permits: int | None = None
        self.until = 0
        self.attempts = 0
        self.sent: list[Gate] = []
        self.states: list[State] = []

    def second(self, code: int, *, reaches: bool = True) -> None:
        """One second in which attempts end so; its figures reach the scheduler or not."""
        self.now += 1_000
        if self.permits is not None and self.now >= self.until:
            self.permits = None
        began = 100 if self.permits is None else self.permits
        if self.permits is not None:
            self.permits -= began
        self.attempts += began
        codes = [0] * 17
        codes[code] = began
        if not reaches:
            return
        figures = [MethodFigures(METHOD, tuple(codes), self.permits)]
        changes = self.gates.observe(self.now, figures, {METHOD: self.config})
        self.states += [change.state for change in changes]
        gates = self.gates.wanted(self.now, figures)
        for gate in gates:
            self.permits, self.until = gate.permits, self.now + gate.valid_ms
        self.gates.told(gates)
        self.sent += gates


def test_an_outage_burns_a_second_and_some_probes():
    broker = Broker()
    broker.second(0)
    before = broker.attempts
    for _ in range(60):
        broker.second(UNAVAILABLE)
    # Two seconds of calls until the share is over a half, then probes after 5, 10, 20 s, ...
    assert broker.attempts - before <= 200 + 3 * 4
    assert broker.states[:3] == [State.OPEN, State.HALF_OPEN, State.OPEN]
    calm = 0
    while broker.permits is not None:
        broker.second(0)
        calm += 1
        assert calm <= 62
    assert broker.states[-1] is State.CLOSED


def early(now_ms: int, gates: Gates, good: int, bad: int) -> State:
    """Figures between two seconds."""
    codes = [good, *[0] * 13, bad, 0, 0]
    gates.observe(now_ms, [MethodFigures(METHOD, tuple(codes))], {METHOD: CONFIG})
    return gates.breakers()[METHOD].state


def test_where_nothing_succeeds_it_opens_however_well_it_was_before():
    gates = Gates()
    assert early(0, gates, 2_000, 12) is State.CLOSED
    for now in range(50, 250, 50):
        assert early(now, gates, 0, 12) is State.CLOSED
    assert early(250, gates, 0, 12) is State.OPEN


def test_one_success_says_that_it_is_no_outage():
    gates = Gates()
    early(0, gates, 2_000, 0)
    for now in range(50, 450, 50):
        assert early(now, gates, now == 200, 12) is State.CLOSED


def test_few_failures_in_a_row_are_for_retries():
    gates = Gates()
    early(0, gates, 2_000, 0)
    for now in range(1_000, 20_000, 1_000):
        assert early(now, gates, 0, 1) is State.CLOSED
    assert early(20_000, gates, 0, 1) is State.OPEN


def test_a_gate_is_set_once_and_outlives_what_it_is_for():
    broker = Broker()
    for _ in range(3):
        broker.second(UNAVAILABLE)
    assert broker.sent == [Gate(METHOD, 0, 5_000 + SLACK_MS)]


def test_without_the_scheduler_nothing_is_parked_for_long():
    broker = Broker()
    broker.second(UNAVAILABLE)
    for _ in range(11):
        broker.second(0, reaches=False)
    assert broker.permits is None


def test_a_broker_that_forgot_is_told_again():
    broker = Broker()
    broker.second(UNAVAILABLE)
    broker.permits = None
    broker.gates.reset()
    broker.second(UNAVAILABLE)
    assert broker.permits == 0


def test_a_probe_that_says_nothing_gives_its_permit_back():
    broker = Broker()
    broker.second(UNAVAILABLE)
    while broker.permits != 3:
        broker.second(UNAVAILABLE)
    broker.second(1)
    assert broker.permits == 3
    broker.second(0)
    assert broker.permits is None


def test_a_breaker_that_a_new_policy_turns_off_lets_go():
    broker = Broker()
    broker.second(UNAVAILABLE)
    figures = [MethodFigures(METHOD, (0,) * 17, 0)]
    broker.gates.observe(9_000, figures, {METHOD: None})
    assert broker.gates.wanted(9_000, figures) == [Gate(METHOD, None)]
    assert broker.gates.breakers() == {}


def test_another_policy_begins_anew():
    broker = Broker()
    broker.second(UNAVAILABLE)
    broker.config = replace(CONFIG, min_calls=1_000)
    broker.second(UNAVAILABLE)
    assert broker.permits is None


@given(st.lists(st.sampled_from([0, 1, 3, UNAVAILABLE]), max_size=120))
def test_it_never_stays_shut(codes: list[int]):
    """Whatever happened, after two minutes that are well everything goes."""
    broker = Broker()
    for code in codes:
        broker.second(code)
    for _ in range(130):
        broker.second(0)
    assert broker.permits is None
    assert broker.gates.breakers()[METHOD].state is State.CLOSED
