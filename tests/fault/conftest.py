"""The short forms of the campaigns: each is run as a test and must find nothing."""

from pathlib import Path

import pytest

from tests.fault.outcome import Outcome
from tests.support.mesh import binaries

_HERE = Path(__file__).parent
SHORT_S = 240
"""A campaign's short form takes 10 to 40 s on two idle cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(SHORT_S), append=False)


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """The binaries are there."""
    if not (binaries() / "plait-broker").exists():
        pytest.fail(f"no binaries in {binaries()}: run .ci/build.sh dev, or set PLAIT_BIN")


def clean(outcome: Outcome) -> None:
    """Nothing was violated, and something was tried."""
    assert outcome.found == []
    assert outcome.violations == 0
    assert outcome.tried > 0
