"""The pytest plugin `plait`: fixtures for tests of programs that use Plait."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait.testing import ContractTest, Mesh


def pytest_addoption(parser: pytest.Parser) -> None:
    """--plait-address."""
    parser.getgroup("plait").addoption(
        "--plait-address",
        metavar="HOST:PORT",
        help="The broker of plait_contract. [default: PLAIT_ADDRESS, else plait_mesh]",
    )


@pytest.fixture(scope="session")
def plait_mesh() -> "Iterator[Mesh]":
    """A broker and a scheduler for the whole run; see plait.testing.Mesh."""
    # Here, since every run of pytest loads this module.
    from plait.testing import Mesh

    with Mesh() as mesh:
        yield mesh


@pytest.fixture(scope="session")
def plait_kit_mesh() -> "Iterator[Mesh]":
    """A broker and a scheduler for the whole run whose time a test moves; see
    plait.testing.TestKit."""
    from plait.testing import Mesh

    with Mesh(test_kit=True) as mesh:
        yield mesh


@pytest.fixture
def plait_contract(request: pytest.FixtureRequest) -> "ContractTest":
    """Tests the workers of a mesh; see plait.testing.ContractTest. Each case is a subtest, where
    this pytest has subtests (9 and later)."""
    from plait.testing import ContractTest

    address = request.config.getoption("--plait-address") or os.environ.get("PLAIT_ADDRESS")
    if not address:
        address = request.getfixturevalue("plait_mesh").address
    try:
        subtests = request.getfixturevalue("subtests")
    except pytest.FixtureLookupError:
        return ContractTest(address)

    def report(case: str, wrong: Sequence[str]) -> None:
        with subtests.test(case):
            if wrong:
                pytest.fail("\n".join(wrong), pytrace=False)

    return ContractTest(address, report)
