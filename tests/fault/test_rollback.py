"""Going back a release; and the judge finds what it is there for."""

from pathlib import Path

import pytest

from tests.fault import later, rollback
from tests.fault.conftest import clean
from tests.fault.outcome import Outcome


async def test_a_later_directory_is_refused_and_left_as_it_is(tmp_path: Path):
    outcome = await rollback.campaign(tmp_path)
    clean(outcome)
    assert outcome.tried >= len(rollback.CASES)


def test_the_checksum_is_the_right_one():
    assert later.crc32c(b"123456789") == 0xE3069283


WANTED = ["a.seg", "version 2"]
RIGHT = (1, "starting\nplait-broker: a.seg has version 2\n")


@pytest.mark.parametrize(
    ("seen", "same", "found"),
    [
        (RIGHT, True, 0),
        (RIGHT, False, 1),
        ((0, RIGHT[1]), True, 1),
        ((None, RIGHT[1]), True, 1),
        ((1, "plait-broker: it is broken"), True, 2),
        ((1, RIGHT[1] + "and more\n"), True, 2),
        ((-6, ""), True, 3),
    ],
)
def test_the_judge_finds(seen: tuple[int | None, str], same: bool, found: int):
    outcome = Outcome("planted", [], "directory")
    rollback.judge(outcome, "planted", seen, WANTED, same)
    assert outcome.violations == found
