"""kill -9 of every process under load; and the audit finds what it is there for."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fault import books, kills
from tests.fault.conftest import clean
from tests.fault.journal import Execution, parsed
from tests.fault.outcome import Outcome
from tests.fault.traffic import Traffic


async def test_nothing_is_lost_or_done_twice(tmp_path: Path):
    outcome = await kills.campaign(kills.Size(kills=30), tmp_path)
    clean(outcome)
    assert outcome.tried >= 30
    assert outcome.figures["entries"] > 100


def sound() -> tuple[Traffic, list[Execution]]:
    """Two entries of one account, the first executed twice."""
    traffic = Traffic("x")
    traffic.entries = {"a/1": "t1", "a/2": "t2"}
    traffic.lengths = {"a/1": 1, "a/2": 2}
    traffic.acknowledged = traffic.ended = 2
    first = Execution("go", "a/1", "a", 1, token=5, attempt=1, task="t1", length=1)
    again = replace(first, token=8, attempt=2, length=7)
    second = Execution("rust", "a/2", "a", 2, token=9, attempt=1, task="t2", length=2)
    return traffic, [first, again, second]


def audited(traffic: Traffic, lines: list[Execution]) -> list[str]:
    outcome = Outcome("planted", [], "audit")
    books.audit(outcome, traffic, lines, zombies=False)
    return outcome.found


def test_the_audit_passes_what_is_right():
    assert audited(*sound()) == []


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda t, e: e.pop(), "never executed"),
        (lambda t, e: e.append(replace(e[2], key="a/3", number=3)), "never acknowledged"),
        (lambda t, e: e.append(replace(e[2], task="t3", token=10)), "two tasks"),
        (lambda t, e: e.append(e[2]), "used twice"),
        (lambda t, e: e.append(replace(e[2], token=3)), "old token"),
        (lambda t, e: e.insert(0, e.pop()), "at place 1"),
        (lambda t, e: t.lengths.update({"a/2": 9}), "answered 9"),
        (lambda t, e: t.failures.append("a/2: UNAVAILABLE"), "ended otherwise"),
        (lambda t, e: setattr(t, "acknowledged", 3), "3 acknowledged, 2 ended"),
    ],
)
def test_the_audit_finds(plant, said: str):
    traffic, lines = sound()
    plant(traffic, lines)
    found = audited(traffic, lines)
    assert any(said in each for each in found), found


def test_a_torn_line_is_an_error():
    with pytest.raises(ValueError, match="unpack"):
        parsed("go\ta/1\ta\t1")
