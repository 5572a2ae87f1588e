"""Poison for workers in Go and Rust; and the judge finds a miscount."""

from pathlib import Path

import pytest

from tests.fault import ruins
from tests.fault.conftest import clean
from tests.fault.outcome import Outcome


async def test_poison_ends_after_its_attempts_in_go_and_rust(tmp_path: Path):
    outcome = await ruins.campaign(len(ruins.HOWS), tmp_path)
    clean(outcome)
    assert outcome.tried == len(ruins.LANGUAGES) * len(ruins.HOWS)


@pytest.mark.parametrize(
    ("attempts", "tasks", "found"),
    [([1, 2, 3, 4, 5], 1, 0), ([1, 2, 3, 4], 1, 1), ([1, 2, 2, 3, 4, 5], 1, 1), ([], 1, 1)],
)
def test_the_judge_counts(attempts: list[int], tasks: int, found: int):
    outcome = Outcome("planted", [], "poison task")
    ruins.judge(outcome, "".join(f"go\tt1\texit\t{n}\n" for n in attempts), tasks)
    assert outcome.violations == found
