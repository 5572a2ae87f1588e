"""A server that never heard of Plait, behind the sidecar, is a worker like any other."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from interop.drivers.plain import plain_echo
from plait.v1 import contract_service_pb2 as contracts
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.sidecar import Plain, start_sidecar
from tests.system.contracts import resolve
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


POLICIES = """
services:
  testing.v1.EchoService:
    task_defaults: {queue: overlaid}
    methods:
      Echo:
        task: {deadline: 90s, retention: {seconds: 20}, idempotency_key: payload}
"""


async def policies_of(mesh: Mesh, *methods: str) -> dict[str, contracts.MethodInfo]:
    """What is in force."""
    paths = [f"/testing.v1.EchoService/{method}" for method in methods]
    return {
        path.rpartition("/")[2]: info
        for path, info in (await resolve(mesh.address, *paths)).items()
    }


async def test_an_overlay_is_put_on_the_policies_field_by_field(fresh: Mesh):
    policies = fresh.folder / "policies.yaml"
    policies.write_text(POLICIES)
    plain = await Plain.start(fresh)
    await start_sidecar(fresh, plain.address, "--policies", str(policies))
    known = await policies_of(fresh, "Echo", "Fail", "Inspect")
    assert {name: info.queue for name, info in known.items()} == {
        "Echo": "overlaid",
        "Fail": "echo.fail",
        "Inspect": "overlaid",
    }
    assert known["Echo"].deadline.seconds == 90
    assert known["Echo"].idempotency_key.path == "payload"
    assert known["Inspect"].deadline.seconds == 600


@pytest.mark.parametrize(
    ("policies", "says"),
    [
        (
            POLICIES.replace("deadline", "dedline"),
            "policies.yaml:7: services.testing.v1.EchoService.methods.Echo.task.dedline"
            " is not known; known here: queue, deadline, attempt_timeout,",
        ),
        (
            POLICIES.replace("Echo:", "Eco:"),
            "policies.yaml:6: services.testing.v1.EchoService.methods.Eco"
            " is not known; known here: Echo,",
        ),
        # Known, but it cannot hold: the scheduler's verdict.
        (
            POLICIES.replace("payload", "nothing"),
            "testing.v1.EchoService.Echo: task.idempotency_key",
        ),
    ],
)
async def test_an_overlay_that_cannot_hold_ends_the_start(fresh: Mesh, policies: str, says: str):
    file = fresh.folder / "policies.yaml"
    file.write_text(policies)
    plain = await Plain.start(fresh)
    with pytest.raises(RuntimeError, match="it ended with 1") as refused:
        await start_sidecar(fresh, plain.address, "--policies", str(file))
    assert says in str(refused.value)


async def test_descriptors_may_come_from_a_file(fresh: Mesh, tmp_path: Path):
    file = tmp_path / "echo.binpb"
    file.write_bytes(plain_echo.descriptors().SerializeToString())
    plain = await Plain.start(fresh, "--no-reflection")
    with pytest.raises(RuntimeError, match="the server has no reflection"):
        await start_sidecar(fresh, plain.address)
    await start_sidecar(fresh, plain.address, "--descriptors", str(file))
    async with fresh.caller() as caller:
        answer = await caller.echo.Echo(pb.EchoRequest(payload=b"file"), timeout=20)
    assert answer.payload == b"file"


async def test_without_tracing_the_context_is_passed_on(caller: Caller):
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen = await caller.echo.Inspect(
        pb.InspectRequest(), timeout=20, metadata=(("traceparent", header),)
    )
    assert seen.metadata["traceparent"] == header
