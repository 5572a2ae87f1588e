"""The pytest plugin `plait`: fixtures for tests of programs that use Plait."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait.testing import Mesh


@pytest.fixture(scope="session")
def plait_mesh() -> "Iterator[Mesh]":
    """A broker and a scheduler for the whole run; see plait.testing.Mesh."""
    # Here, since every run of pytest loads this module.
    from plait.testing import Mesh

    with Mesh() as mesh:
        yield mesh
