"""Direct calls of unmodified clients in Node and Java: their gRPC libraries, and a bootstrap."""

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from plait.control.v1 import directory_service_pb2 as directory_pb
from testing.v1 import echo_pb2
from tests.support.java import java
from tests.support.mesh import ROOT, Mesh
from tests.support.processes import Process
from tests.support.waiting import eventually
from tests.system.direct import address_of, bootstrap, direct_calls, worker
from tests.system.test_call_ejection import is_left_out_and_taken_back
from tests.system.test_call_faults import METHOD, fault
from tests.system.test_direct_calls import start_echo

# The first test of Java downloads its jars.
pytestmark = pytest.mark.timeout(300)
PAYLOAD = echo_pb2.EchoRequest(payload=b"plain")
# As the two messages are the same.
ANSWER = PAYLOAD.SerializeToString().hex()
CODES = {"UNAVAILABLE": 14, "INTERNAL": 13, "INVALID_ARGUMENT": 3}


@pytest.fixture(params=["node", "java"])
async def command(request: pytest.FixtureRequest) -> list[str]:
    """The command that starts the client."""
    if request.param == "node":
        return ["node", str(ROOT / "interop/plain/node/caller.mjs")]
    return [*await java(), "Caller"]


async def start(mesh: Mesh, command: list[str], method: str, calls: int, *requests: str) -> Process:
    """A client that makes so many calls with each request; 0: until it is told to end."""
    env = {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(address_of(mesh))}
    return await mesh.start("plain-caller", [*command, method, str(calls), *requests], env)


def reported(found: directory_pb.GetDirectCallsResponse) -> bool:
    """A client has told what became of its calls."""
    well = [load.succeeded for load in found.loads if load.locality == "plait/mesh"]
    return sum(well) > 100


async def test_an_open_channel_fails_fast_until_a_worker_is_there(fresh: Mesh, command: list[str]):
    caller = await start(fresh, command, "Echo", 0, ANSWER)
    (refused,) = caller.ready["answers"]
    # They were told that there is no way; not told anything, they wait for 15 s and say that.
    assert refused.startswith("UNAVAILABLE: Failed to ")
    await start_echo(fresh)
    found = await eventually(lambda: direct_calls(fresh), reported)
    assert found.rejected == 0, found.rejections
    assert await caller.terminate() == 0


async def test_a_client_without_a_deadline_gets_the_policy_s(fresh: Mesh, command: list[str]):
    async with worker(fresh, "a") as named:
        said = (await start(fresh, command, "Sleep", 1, "")).ready
        assert said["answers"] == {"": 1}
        assert 0 < named.left[0] < 5.1


async def test_the_client_library_retries_as_the_contract_says(fresh: Mesh, command: list[str]):
    async with worker(fresh, "a") as named:

        def fails(message: str, code: str, failures: int) -> str:
            request = echo_pb2.FailRequest(message=message, failures=failures)
            request.code = CODES[code]
            return request.SerializeToString().hex()

        await start(
            *(fresh, command, "Fail", 1),
            fails("passes", "UNAVAILABLE", 2),
            fails("stays", "UNAVAILABLE", 100),
            # Fail has no idempotency key, and INVALID_ARGUMENT is nobody's to repeat.
            fails("internal", "INTERNAL", 1),
            fails("invalid", "INVALID_ARGUMENT", 1),
        )
        assert named.calls == {"passes": 3, "stays": 3, "internal": 1, "invalid": 1}


async def test_a_fault_is_suffered(fresh: Mesh, command: list[str]):
    async with worker(fresh, "a") as named:
        payload = echo_pb2.EchoResponse(payload=b"a").SerializeToString().hex()
        assert (await start(fresh, command, "Echo", 3, ANSWER)).ready["answers"] == {payload: 3}
        await fault(fresh, "set", METHOD, "--abort", "NOT_FOUND", "--for", "10m")
        (said,) = (await start(fresh, command, "Echo", 3, ANSWER)).ready["answers"]
        assert said.startswith("NOT_FOUND: "), said
        assert named.echoes == 3
        assert (await direct_calls(fresh)).rejected == 0


async def test_a_worker_that_fails_is_left_out_and_taken_back(fresh: Mesh, command: list[str]):
    @contextlib.asynccontextmanager
    async def calling() -> AsyncIterator[None]:
        caller = await start(fresh, command, "Echo", 0, ANSWER)
        yield
        assert await caller.terminate() == 0

    await is_left_out_and_taken_back(fresh, calling)


async def test_no_call_fails_in_a_rolling_restart(fresh: Mesh, command: list[str]):
    running = [await start_echo(fresh), await start_echo(fresh, "go")]
    caller = await start(fresh, command, "Echo", 0, ANSWER)
    for index, old in enumerate(running):
        # As a rollout does: the new one is there before the old one goes.
        running[index] = await start_echo(fresh)
        assert await old.terminate() == 0
    assert await caller.terminate() == 0
    (done,) = [line for line in caller.tail().splitlines() if '"done"' in line]
    assert json.loads(done)["answers"].keys() == {ANSWER}
