"""What campaigns saw is judged by the checker of the simulation; and it finds what is planted."""

from pathlib import Path

import pytest

from tests.fault.history import APPEND, ECHO, History
from tests.fault.outcome import Outcome

LINE = "go\ta/{n}\ta\t{n}\t{token}\t{attempt}\tt000000000000000{n}\t{n}\n"


def noted(journal: Path, number: int, token: int, attempt: int = 1) -> None:
    with journal.open("a") as opened:
        opened.write(LINE.format(n=number, token=token, attempt=attempt))


def told(folder: Path) -> History:
    """Two entries of an account, and an echo, all well."""
    history = History(folder / "journal.tsv")
    for number in (1, 2):
        asked = history.asked(APPEND, "c", key=f"a/{number}", order="a", place=(number, 0))
        history.acknowledged(asked, f"t000000000000000{number}")
    history.acknowledged(history.asked(ECHO, "c"), "t0000000000000003")
    noted(folder / "journal.tsv", 1, token=5)
    history.ended("t0000000000000001", "SUCCEEDED", digest="1")
    noted(folder / "journal.tsv", 2, token=6)
    history.ended("t0000000000000003", "SUCCEEDED")
    return history


async def checked(history: History, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setenv("PLAIT_FAULT_RESULTS", str(folder / "results"))
    outcome = Outcome("planted", [], "history")
    await history.check(outcome)
    return outcome


async def test_a_clean_history_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    history = told(tmp_path)
    history.ended("t0000000000000002", "SUCCEEDED", digest="2")
    outcome = await checked(history, tmp_path, monkeypatch)
    assert outcome.found == []
    assert outcome.figures["history"] == "16 entries, 3 tasks, 2 attempts, 0 violations"


async def test_a_task_that_never_ended_is_found_and_the_history_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    outcome = await checked(told(tmp_path), tmp_path, monkeypatch)
    assert any("I19" in found and "never ended" in found for found in outcome.found)
    assert (tmp_path / "results/planted.history.jsonl").exists()


async def test_an_old_token_and_a_wrong_result_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    history = told(tmp_path)
    noted(tmp_path / "journal.tsv", 2, token=4, attempt=2)
    history.ended("t0000000000000002", "SUCCEEDED", digest="9")
    outcome = await checked(history, tmp_path, monkeypatch)
    assert any("I3" in found for found in outcome.found)
    assert any("not what a worker gave" in found for found in outcome.found)
