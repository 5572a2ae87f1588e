"""Drain and swap under load; and the judge finds a repeated attempt."""

from pathlib import Path

from plait.v1 import task_pb2
from tests.fault import swaps
from tests.fault.conftest import clean
from tests.fault.journal import Execution
from tests.fault.outcome import Outcome
from tests.fault.traffic import Traffic


async def test_a_new_broker_takes_over(tmp_path: Path):
    outcome = await swaps.campaign("broker", 4, tmp_path)
    clean(outcome)
    assert outcome.tried == 4
    assert outcome.figures["attempts_repeated"] == 0
    assert outcome.figures["long_naps"] > 0


async def test_new_workers_take_over(tmp_path: Path):
    outcome = await swaps.campaign("workers", 6, tmp_path)
    clean(outcome)
    assert outcome.tried == 6
    assert outcome.figures["attempts_repeated"] == 0


def test_the_judge_finds_what_was_run_twice():
    traffic = Traffic("x")
    traffic.entries = {"a/1": "t1"}
    traffic.acknowledged = traffic.ended = 1
    once = Execution("go", "a/1", "a", 1, token=5, attempt=1, task="t1", length=1)
    twice = Execution("go", "a/1", "a", 1, token=6, attempt=2, task="t1", length=2)
    outcome = Outcome("planted", [], "swap")
    swaps.judge(outcome, traffic, [once], [])
    assert outcome.violations == 0
    swaps.judge(outcome, traffic, [once, twice], [task_pb2.Task(id="t1", attempt=2)])
    assert outcome.violations == 2
