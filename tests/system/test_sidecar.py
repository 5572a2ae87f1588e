"""A server that never heard of Plait, behind the sidecar, is a worker like any other."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.mesh import Caller, Mesh
from tests.support.sidecar import Plain, start_sidecar
from tests.system.test_calls import (
    test_a_call_answers,
    test_a_failure_arrives_byte_for_byte,
    test_a_submitted_task_has_its_result,
    test_an_empty_and_a_large_payload_go_through,
    test_the_handler_sees_a_key_that_was_given,
    test_the_handler_sees_deadline_metadata_and_attempt,
    test_the_handlers_deadline_is_the_attempts_where_that_is_shorter,
    test_thousands_answer_in_the_order_of_their_requests,
)

# What holds for a worker of any SDK.
__all__ = [
    "test_a_call_answers",
    "test_a_failure_arrives_byte_for_byte",
    "test_a_submitted_task_has_its_result",
    "test_an_empty_and_a_large_payload_go_through",
    "test_the_handler_sees_a_key_that_was_given",
    "test_the_handler_sees_deadline_metadata_and_attempt",
    "test_the_handlers_deadline_is_the_attempts_where_that_is_shorter",
    "test_thousands_answer_in_the_order_of_their_requests",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh with a plain server behind a sidecar as its worker."""
    async with Mesh(tmp_path_factory.mktemp("sidecar")) as running:
        plain = await Plain.start(running)
        await start_sidecar(running, plain.address)
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def caller(mesh: Mesh) -> AsyncIterator[Caller]:
    """A client of the shared mesh."""
    async with mesh.caller() as opened:
        yield opened
