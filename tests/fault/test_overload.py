"""More load than can be borne, and a judge that finds what it is there for."""

from pathlib import Path

import pytest

from tests.fault import overload
from tests.fault.conftest import clean
from tests.fault.outcome import Outcome


async def test_overload_is_refused_and_what_was_admitted_ends(tmp_path: Path):
    # What a machine does that builds beside the test is no figure; that it goes on is.
    outcome = await overload.campaign(10, tmp_path, goodput_min=0.02)
    clean(outcome)
    assert outcome.figures["offered_over_peak"] > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refused": 0}, "no overload"),
        ({"bare": 1}, "without RetryInfo"),
        ({"ended": 9}, "10 admitted, 9 ended"),
    ],
)
def test_the_judge_finds(change: dict[str, int], said: str):
    flood = overload.Flood(1.0, accepted=10, ended=10, refused=5)
    for name, value in change.items():
        setattr(flood, name, value)
    outcome = Outcome("planted", [], "second")
    overload._judge(outcome, flood, 0.95, 1, 0.9)
    assert [said in each for each in outcome.found] == [True]


def test_the_judge_finds_waste_and_growth():
    outcome = Outcome("planted", [], "second")
    overload._judge(outcome, overload.Flood(1.0, refused=1), 0.4, overload.MEMORY_BYTES, 0.9)
    assert outcome.violations == 2
