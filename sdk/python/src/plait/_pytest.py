"""The pytest plugin `plait`: fixtures for tests of programs that use Plait."""

from collections.abc import Iterator

import pytest

from plait.testing import Mesh


@pytest.fixture(scope="session")
def plait_mesh() -> Iterator[Mesh]:
    """A broker and a scheduler for the whole run; see plait.testing.Mesh."""
    with Mesh() as mesh:
        yield mesh
