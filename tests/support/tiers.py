"""Chains of workers that call each other directly, and the last of them, which counts."""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

import plait
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import ROOT, Mesh, binaries
from tests.support.processes import Process
from tests.support.waiting import eventually

WAIT_S = 40.0
# Calls that fill a budget which looking for the workers has spent.
_FILLING = 60


async def start_tier(
    mesh: Mesh,
    language: str,
    serve: str,
    call: str,
    options: dict[str, Any] | None = None,
    *,
    durable: bool = False,
) -> Process:
    """A worker process that serves one method by calling another; by a task, which Rust and
    TypeScript know."""
    command = [str(binaries() / f"tier-{language}")]
    if language == "python":
        command = [sys.executable, str(ROOT / "interop/drivers/python/tier_worker.py")]
    elif language != "go":
        command = [str(binaries() / f"echo-worker-{language}")]
    command += ["--serve", serve, "--call", call, "--options", json.dumps(options or {})]
    command += ["--durable"] if durable else []
    return await mesh.start(f"tier-{language}", command)


class Last(echo_pb2_grpc.EchoServiceServicer):
    """The end of a chain: `Fail` fails while it is told to, `Inspect` waits while it is told to."""

    def __init__(self) -> None:
        self.failing = False
        # Of the calls, while it fails.
        self.failing_share = 1.0
        # Metadata of each call of Fail.
        self.seen: list[dict[str, str | bytes]] = []
        # Calls of Inspect: begun, answered, cancelled.
        self.begun = self.answered = self.cancelled = 0
        self.running_most = 0
        self._random = random.Random(7)
        self.go_on = asyncio.Event()
        self.go_on.set()

    @property
    def running(self) -> int:
        """Calls of Inspect that are under way."""
        return self.begun - self.answered - self.cancelled

    async def Fail(self, request: echo_pb2.FailRequest, context: Any) -> echo_pb2.FailResponse:
        self.seen.append({str(key): value for key, value in context.invocation_metadata()})
        if self.failing and self._random.random() < self.failing_share:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to")
        return echo_pb2.FailResponse()

    async def Inspect(
        self, request: echo_pb2.InspectRequest, context: Any
    ) -> echo_pb2.InspectResponse:
        self.begun += 1
        self.running_most = max(self.running_most, self.running)
        response = echo_pb2.InspectResponse()
        response.time_remaining.FromMilliseconds(int(context.time_remaining() * 1000))
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.answered += 1
        return response


@contextlib.asynccontextmanager
async def last(mesh: Mesh) -> AsyncIterator[Last]:
    """The end of a chain, in this process."""
    servicer: Any = type("Servicer", (Last,), {})
    servicer.__abstractmethods__ = frozenset()
    made: Last = servicer()
    async with plait.connect(mesh.address) as client:
        running = client.worker(name="last", version="last", listen="127.0.0.1:0")
        running.serve(made, echo_pb2_grpc.add_EchoServiceServicer_to_server)
        async with running:
            yield made


async def answered(stub: Any, *, calls: int = _FILLING) -> None:
    """Waits until the chain answers, and so many calls more: by default until its budgets are
    full."""

    async def ask() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S)
            return True
        return False

    await eventually(ask, bool, WAIT_S)
    for _ in range(calls):
        await stub.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S)


def first_of(client: plait.Client, **options: Any) -> Any:
    """The stub of who calls a chain, which has no breaker of its own."""
    options.setdefault("breaker", None)
    return echo_pb2_grpc.EchoServiceStub(client.direct(**options))
