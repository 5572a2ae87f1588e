"""The soak in a few seconds, and its slopes."""

from pathlib import Path

import pytest

from tests.fault import soak
from tests.fault.conftest import clean


async def test_a_soak_of_seconds_is_plotted(tmp_path: Path):
    picture = tmp_path / "soak.png"
    outcome = await soak.campaign(6 / 3600, tmp_path, picture)
    clean(outcome)
    assert picture.stat().st_size > 10_000
    assert outcome.figures["broker_mib_max"] > 1
    assert outcome.figures["broker_descriptors_max"] > 5


def test_a_slope_is_that_of_the_line():
    curve = soak.Curve("broker", 1)
    curve.at = [float(second) for second in range(100)]
    growing = [500.0] * 10 + [100 + 2 * at for at in curve.at[10:]]
    assert curve.slope_an_hour(growing) == pytest.approx(7200)
    assert curve.slope_an_hour(growing[:2]) == 0.0
