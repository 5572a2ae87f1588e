"""A worker whose calls fail is left out for a while by every kind of caller, and taken back when it
is well again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from plait.v1 import options_pb2
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import Mesh, binaries
from tests.support.waiting import eventually
from tests.system.contracts import announce, descriptor_set
from tests.system.direct import ECHO, WAIT_S, Named, address_of, bootstrap, channel, worker

# Calls of the others while one is not asked: it is left out, or by chance once in 10^17.
MEANWHILE = 100


def quick() -> bytes:
    """The contract with breakers of a second, so that who fails is left out soon."""
    files = FileDescriptorSet.FromString(descriptor_set(echo_pb2.DESCRIPTOR))
    (service,) = files.file[-1].service
    breaker = service.options.Extensions[options_pb2.task_defaults].breaker
    breaker.disabled = False
    breaker.min_calls = 5
    breaker.window.FromMilliseconds(1000)
    breaker.open.FromMilliseconds(1000)
    breaker.open_max.FromMilliseconds(1000)
    return files.SerializeToString()


@contextlib.asynccontextmanager
async def steady(mesh: Mesh, kind: str) -> AsyncIterator[None]:
    """A caller that calls without a pause, until the block ends."""
    if kind == "python":
        async with channel(mesh) as opened, asyncio.TaskGroup() as group:
            calling = group.create_task(call(echo_pb2_grpc.EchoServiceStub(opened)))
            yield
            calling.cancel()
        return
    command = [str(binaries() / f"echo-worker-{kind}"), "--caller", "--calls", "0"]
    if kind == "go":
        command = [str(binaries() / "caller-go")]
    env = {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(address_of(mesh))}
    caller = await mesh.start(f"caller-{kind}", command, env)
    yield
    assert await caller.terminate() == 0


async def call(stub: Any) -> None:
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Echo(echo_pb2.EchoRequest(payload=b"x"), timeout=WAIT_S)


# Python and Go are gRPC's own clients, with nothing of ours; Rust and TypeScript do it by our SDKs.
@pytest.mark.parametrize("kind", ["python", "go", "rust", "typescript"])
async def test_a_worker_that_fails_is_left_out_and_taken_back(fresh: Mesh, kind: str):
    await is_left_out_and_taken_back(fresh, lambda: steady(fresh, kind))


async def is_left_out_and_taken_back(
    mesh: Mesh, calling: Callable[[], AbstractAsyncContextManager[None]]
) -> None:
    """One of three workers fails, and is well again, while somebody calls."""
    async with worker(mesh, "a") as one, worker(mesh, "b") as other, worker(mesh, "c") as broken:
        # After the workers have announced theirs, whose breaker is off.
        await announce(mesh.address, quick(), ECHO)
        broken.code = grpc.StatusCode.INTERNAL

        async def asked_meanwhile() -> int:
            before, well = broken.echoes, one.echoes + other.echoes
            await eventually(lambda: answered(one, other), lambda now: now >= well + MEANWHILE)
            return broken.echoes - before

        async with calling():
            await eventually(lambda: answered(broken), lambda asked: asked > 0, WAIT_S)
            await eventually(asked_meanwhile, lambda asked: asked == 0, WAIT_S)
            broken.code = None
            before = broken.echoes
            await eventually(lambda: answered(broken), lambda now: now > before + 10, WAIT_S)


async def answered(*workers: Named) -> int:
    return sum(each.echoes for each in workers)
