"""The report says what the results say."""

import json
import tomllib
from pathlib import Path

import pytest

from tests.fault import report
from tests.fault.outcome import ROOT, Outcome


def result(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "campaign": "kills",
        "invariants": ["I1", "I2"],
        "tried": 2000,
        "violations": 0,
        "unit": "kill -9",
        "seconds": 1200.5,
        "date": "2026-11-22",
        "commit": "abc1234",
        "notes": "broker 1000",
    }
    return {**made, **changes}


def test_what_was_tried_is_told_by_promise_and_by_campaign():
    other = result(campaign="sim", invariants=["I1"], tried=5, unit="seed", violations=2)
    text = report.render([result(), {**other, "seeds": "1-5", "found": ["a | b"]}], [])
    promise = "an acknowledged submission is never lost"
    assert f"| I1 | {promise} | kills, sim | 2,000 kill -9; 5 seed | 2 |" in text
    assert "| I2 | at most one effect of an idempotency key | kills | 2,000 kill -9 | 0 |" in text
    assert "| kills | 2,000 kill -9 | 0 | 1,200.5 | 2026-11-22 | abc1234 | broker 1000 |" in text
    assert "seeds 1-5; broker 1000" in text
    assert "- a \\| b" in text


def test_a_result_of_another_shape_is_refused(tmp_path: Path):
    broken = result()
    del broken["tried"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="tried"):
        report.load(tmp_path)
    (tmp_path / "broken.json").write_text(json.dumps(result(invariants=["I99"])))
    with pytest.raises(ValueError, match="I99"):
        report.load(tmp_path)


def test_the_simulations_names_are_told_by_their_numbers(tmp_path: Path):
    names = ["I1 acked is kept", "I11 attempts counted", "I11 dead letter once", "assertion"]
    (tmp_path / "sim.json").write_text(json.dumps(result(invariants=names)))
    (read,) = report.load(tmp_path)
    assert read["invariants"] == ["I1", "I11"]


def test_an_outcome_has_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLAIT_FAULT_RESULTS", str(tmp_path))
    outcome = Outcome("flips", ["I15"], "flip", tried=3)
    outcome.check(False, "byte 7")
    outcome.ended().write()
    (read,) = report.load(tmp_path)
    assert (read["tried"], read["violations"], read["found"]) == (3, 1, ["byte 7"])


def test_every_bug_names_a_test_that_is_there():
    for bug in tomllib.loads(report.BUGS.read_text())["bug"]:
        path, _, name = bug["test"].partition(": ")
        assert name in (ROOT / path).read_text(), bug
