"""Meshes for the system tests.

`mesh` has one worker of each language in turn and is shared by all tests that break nothing;
`fresh` is a mesh of its own, for tests that kill.
"""

import itertools
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.mesh import WORKER_LANGUAGES, Caller, Mesh, binaries

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes outlive a test, so all tests share an event loop."""
    for item in items:
        if _HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its processes said last."""
    report = yield
    if report.failed:
        for mesh in getattr(item, "funcargs", {}).values():
            if isinstance(mesh, Mesh):
                for process in mesh.processes:
                    report.sections.append((f"{process.log}", process.tail()))
    return report


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """The binaries are there."""
    if not (binaries() / "plait-broker").exists():
        pytest.fail(f"no binaries in {binaries()}: run .ci/build.sh dev, or set PLAIT_BIN")


@pytest.fixture(scope="session", params=WORKER_LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """The language of the worker."""
    return str(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh(language: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh with one worker; shared, so that a test must not stop anything in it."""
    async with Mesh(tmp_path_factory.mktemp(language)) as running:
        await running.start_worker(language)
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def caller(mesh: Mesh) -> AsyncIterator[Caller]:
    """A client of the shared mesh."""
    async with mesh.caller() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh of the test's own: broker and scheduler, no worker yet."""
    async with Mesh(tmp_path) as running:
        yield running


_names = itertools.count(1)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A text that no other test of the shared meshes uses, for keys and accounts."""
    return f"{request.node.name}-{next(_names)}"
