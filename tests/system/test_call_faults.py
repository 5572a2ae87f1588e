"""Faults that an operator sets are suffered by every kind of caller of direct calls, and end."""

import asyncio
import functools
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any

import grpc

from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import Mesh, binaries
from tests.support.waiting import eventually
from tests.system.direct import (
    ECHO,
    WAIT_S,
    address_of,
    answered_by,
    bootstrap,
    channel,
    direct,
    direct_calls,
    worker,
)

METHOD = f"{ECHO}/Echo"
CALLS = 5
LATE_S = 0.5


async def fault(mesh: Mesh, *arguments: str, ends: int = 0) -> Any:
    """`plait fault` as JSON; where it fails, what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "fault", *arguments),
        *("-o", "json", "--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == ends, stderr.decode()
    return stderr.decode() if ends else json.loads(stdout)


async def answers(mesh: Mesh, kind: str) -> dict[str, int]:
    """What a program is answered, and how often; a failure counts by its code and message."""
    command = [str(binaries() / f"echo-worker-{kind}"), "--caller", "--calls", str(CALLS)]
    if kind == "go":
        command = [str(binaries() / "caller-go"), "-calls", str(CALLS)]
    env = {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(address_of(mesh))}
    found: dict[str, int] = (await mesh.start(f"caller-{kind}", command, env)).ready["answers"]
    return found


async def code(stub: Any) -> grpc.StatusCode:
    """That of one call."""
    try:
        await stub.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_every_kind_of_caller_fails_as_told(fresh: Mesh):
    async with fresh.caller() as caller, worker(fresh, "a") as named, channel(fresh) as opened:
        plain: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(plain, "a")
        await answered_by(direct(caller), "a")
        # NOT_FOUND, for nobody tries that again.
        await fault(fresh, "set", METHOD, "--abort", "not_found", "--for", "10m")
        not_found = grpc.StatusCode.NOT_FOUND
        for stub in (plain, direct(caller)):
            asked = functools.partial(code, stub)
            await eventually(asked, lambda now: now is not_found, WAIT_S)
        before = named.echoes
        for kind, said in (("go", "NotFound"), ("rust", "NotFound"), ("typescript", "NotFound")):
            (text,) = await answers(fresh, kind)
            assert text.startswith(f"{said}: "), f"{kind}: {text}"
        assert named.echoes == before
        # A task is not concerned.
        await caller.echo.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S)
        (listed,) = (await fault(fresh, "list"))["faults"]
        assert (listed["method"], listed["abort"]["perMillion"]) == (f"/{METHOD}", 1_000_000)
        await fault(fresh, "clear", METHOD)
        await answered_by(plain, "a")
        await answered_by(direct(caller), "a")
        assert await answers(fresh, "rust") == {"a": CALLS}
        assert await answers(fresh, "typescript") == {"a": CALLS}
        assert "has no fault" in await fault(fresh, "clear", METHOD, ends=3)
        assert (await direct_calls(fresh)).rejected == 0


async def test_calls_are_late_and_not_when_it_is_over(fresh: Mesh):
    async with worker(fresh, "a"), channel(fresh) as opened:
        stub: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(stub, "a")
        await fault(fresh, "set", METHOD, "--delay", f"{LATE_S * 1000:g}ms", "--for", "10m")
        await eventually(lambda: took(code(stub)), lambda seconds: seconds >= LATE_S, WAIT_S)
        for kind in ("rust", "typescript"):
            assert await took(answers(fresh, kind)) >= CALLS * LATE_S, kind
        await fault(fresh, "clear", METHOD)
        await eventually(lambda: took(code(stub)), lambda seconds: seconds < LATE_S, WAIT_S)


async def took(done: Awaitable[object]) -> float:
    """Seconds."""
    began = time.monotonic()
    await done
    return time.monotonic() - began


async def test_a_fault_without_an_end_is_refused(fresh: Mesh):
    assert "--for" in await fault(fresh, "set", METHOD, "--delay", "1s", ends=2)
    assert "--abort CODE" in await fault(fresh, "set", METHOD, "--for", "1m", ends=2)
    said = await fault(fresh, "set", METHOD, "--abort", "UNAVAILABLE", "--for", "2d", ends=2)
    assert "24 h" in said
