"""The official interop client of grpc-go, unmodified, becomes durable: it calls a sidecar, which
submits; another sidecar works for the official interop service, that of grpc-go or of grpc-java."""

import asyncio
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from plait.v1 import task_pb2
from tests.support.java import start_interop_server
from tests.support.mesh import ROOT, Mesh, binaries
from tests.support.sidecar import start_sidecar

# The first test of Java downloads its jars.
pytestmark = pytest.mark.timeout(300)
LIMIT_S = 50
SHOWN_BYTES = 4_000
SERVICE = "grpc.testing.TestService"
# Ten calls, one after the other, each on a machine that may be busy with other things.
SOAK = (
    "--soak_overall_timeout_seconds=40",
    "--soak_per_iteration_max_acceptable_latency_ms=20000",
)
# A stream may be over before the client has sent what it wanted to, and then it says only that.
REFUSED = r"FullDuplexCall is a streaming method|has error EOF while sending"
POLICIES = f"""
services:
  {SERVICE}:
    task_defaults: {{queue: interop, retry: {{max_attempts: 1}}}}
"""


@dataclass
class Suite:
    """The mesh, and where the client calls."""

    mesh: Mesh
    front: str

    async def run(self, case: str, *arguments: str) -> tuple[int | None, str]:
        """Runs a case of the client; its exit code and what it printed."""
        host, port = self.front.rsplit(":", 1)
        client = await asyncio.create_subprocess_exec(
            str(binaries() / "grpc-interop-client"),
            f"--server_host={host}",
            f"--server_port={port}",
            f"--test_case={case}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                printed, _ = await client.communicate()
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
        return client.returncode, printed[:SHOWN_BYTES].decode(errors="replace")

    async def tasks(self, method: str) -> list[task_pb2.Task]:
        """What became tasks."""
        async with self.mesh.caller() as caller:
            return await caller.list(f'method = "/{SERVICE}/{method}"')


def descriptors(folder: Path) -> tuple[str, str]:
    """The flag for a server without reflection: the contract that lies beside Java's classes."""
    (jar,) = (ROOT / "build/java/lib").glob("grpc-interop-testing-*.jar")
    with zipfile.ZipFile(jar) as opened:
        protos = [each for each in opened.namelist() if each.endswith(".proto")]
        opened.extractall(folder, protos)
    out = folder / "interop.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={out}", *protos], check=True)
    return "--descriptors", str(out)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["go", "java"])
async def suite(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    """client -> sidecar -> broker -> sidecar -> server."""
    folder = tmp_path_factory.mktemp("interop")
    policies = folder / "policies.yaml"
    policies.write_text(POLICIES)
    async with Mesh(folder) as mesh:
        arguments = ["--service", SERVICE, "--policies", str(policies)]
        if request.param == "java":
            server = await start_interop_server(mesh)
            arguments += descriptors(folder)
        else:
            server = await mesh.start("server", [str(binaries() / "grpc-interop-server")])
        await start_sidecar(mesh, server.address, *arguments)
        front = await start_sidecar(mesh, server.address, *arguments, "--listen", "127.0.0.1:0")
        yield Suite(mesh, front.address)


@pytest.mark.parametrize(
    ("case", "method", "state"),
    [
        ("empty_unary", "EmptyCall", task_pb2.TASK_STATE_SUCCEEDED),
        ("large_unary", "UnaryCall", task_pb2.TASK_STATE_SUCCEEDED),
        ("rpc_soak", "UnaryCall", task_pb2.TASK_STATE_SUCCEEDED),
        ("channel_soak", "UnaryCall", task_pb2.TASK_STATE_SUCCEEDED),
        ("special_status_message", "UnaryCall", task_pb2.TASK_STATE_FAILED),
        ("unimplemented_method", "UnimplementedCall", task_pb2.TASK_STATE_FAILED),
    ],
)
async def test_a_case_passes_as_a_task(suite: Suite, case: str, method: str, state: int):
    before = {task.id for task in await suite.tasks(method)}
    code, printed = await suite.run(case, *SOAK)
    assert code == 0, printed
    made = [task for task in await suite.tasks(method) if task.id not in before]
    assert made
    assert {task.state for task in made} == {state}


async def test_a_service_that_the_server_lacks_is_unimplemented(suite: Suite):
    code, printed = await suite.run("unimplemented_service")
    assert code == 0, printed


@pytest.mark.parametrize(
    ("case", "says"),
    [
        # The unary half of the case passes; then it opens a stream.
        ("status_code_and_message", REFUSED),
        # The request's metadata arrive at the server; a response's own go nowhere, as everywhere.
        ("custom_metadata", r"Expected exactly one header from server"),
        ("ping_pong", REFUSED),
        ("server_streaming", r"StreamingOutputCall is a streaming method"),
    ],
)
async def test_what_no_task_can_do_fails_at_once_and_says_so(suite: Suite, case: str, says: str):
    code, printed = await suite.run(case)
    assert code not in (0, None), printed
    assert re.search(says, printed), printed
