"""A chain of five hops over four languages, by calls, tasks and flows: one trace and one deadline,
which only shrinks; work whose time is over is never started."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import plait
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import Mesh
from tests.support.tiers import WAIT_S, answered, first_of, start_tier
from tests.support.waiting import reaches

TRACE = "0af7651916cd43dd8448eb211c80319c"
# Enough for five hops on a machine that is busy.
TIMEOUT_MS = 20_000
# Enough to reach the fourth.
SHORT_S = 5.0
# C-core's clock is so far behind, at most, in a handler of Python's that is called.
BEHIND_MS = 30
# The Fail of a tier is called; Once is a task.
CALLED, TASK = "Fail", "Once"


class End:
    """The last two hops, in Python: Fail submits Once and waits for it."""

    def __init__(self, client: plait.Client) -> None:
        self._client = client
        self._stub: Any = echo_pb2_grpc.EchoServiceStub(client.channel())
        # Of each handler that began: its method, the milliseconds that it had, its trace.
        self.begun: list[tuple[str, int, str]] = []
        self.tasks: asyncio.Queue[plait.Task[Any]] = asyncio.Queue()

    def _begin(self, method: str, context: Any) -> None:
        left_ms = int((plait.deadline.remaining() or 0) * 1000)
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        self.begun.append((method, left_ms, metadata.get("traceparent", "")))

    async def Fail(self, request: echo_pb2.FailRequest, context: Any) -> echo_pb2.FailResponse:
        self._begin(CALLED, context)
        task = await self._client.submit(self._stub.Once, echo_pb2.OnceRequest())
        self.tasks.put_nowait(task)
        await task.result()
        return echo_pb2.FailResponse()

    async def Once(self, request: echo_pb2.OnceRequest, context: Any) -> echo_pb2.OnceResponse:
        self._begin(TASK, context)
        return echo_pb2.OnceResponse()


@contextlib.asynccontextmanager
async def serving(client: plait.Client, end: End, method: str) -> AsyncIterator[None]:
    """A worker of one of its methods."""
    handler = staticmethod(getattr(end, method))
    made: Any = type("Servicer", (echo_pb2_grpc.EchoServiceServicer,), {method: handler})
    made.__abstractmethods__ = frozenset()
    listen = "127.0.0.1:0" if method == CALLED else None
    running = client.worker(name=method, version=method, listen=listen)
    running.serve(made(), echo_pb2_grpc.add_EchoServiceServicer_to_server)
    async with running:
        yield


@contextlib.asynccontextmanager
async def chain(mesh: Mesh, second: str, third: str) -> AsyncIterator[tuple[plait.Client, End]]:
    """The first four hops: a call to Go, its task, which is a flow, the child, and its call."""
    await start_tier(mesh, second, "Scalars", "Inspect", durable=True)
    await start_tier(mesh, third, "Inspect", CALLED)
    await start_tier(mesh, "go", "Echo", "Scalars")
    async with mesh.caller() as caller:
        end = End(caller.plait)
        async with serving(caller.plait, end, CALLED):
            yield caller.plait, end


def call(client: plait.Client, timeout_s: float) -> Any:
    """A call of the whole chain."""
    request = echo_pb2.EchoRequest(payload=b"durable")
    metadata = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")]
    return first_of(client).Echo(request, timeout=timeout_s, metadata=metadata)


@pytest.mark.parametrize(("second", "third"), [("rust", "typescript"), ("typescript", "rust")])
async def test_five_hops_have_one_deadline_and_one_trace(fresh: Mesh, second: str, third: str):
    async with chain(fresh, second, third) as (client, end), serving(client, end, TASK):
        await answered(first_of(client), calls=1)
        end.begun.clear()
        answer = await call(client, TIMEOUT_MS / 1000)
    assert [method for method, _, _ in end.begun] == [CALLED, TASK]
    lefts = json.loads(answer.payload) + [left_ms for _, left_ms, _ in end.begun]
    assert len(lefts) == 5
    hops = [TIMEOUT_MS, *lefts]
    for hop, (above, below) in enumerate(zip(hops, lefts, strict=False), 1):
        # It never grows, whatever the policies of the methods would allow.
        assert 0 < below <= above + (BEHIND_MS if hop == 4 else 0), hops
    assert {trace.split("-")[1] for _, _, trace in end.begun} == {TRACE}


async def test_what_is_late_at_the_end_of_the_chain_is_never_started(fresh: Mesh):
    async with chain(fresh, "rust", "typescript") as (client, end):
        # Nobody serves the last hop, so its task waits until the caller's time is over.
        while end.tasks.empty():
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(client, SHORT_S)
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        late = end.tasks.get_nowait()
        assert (await reaches(late, "EXPIRED")).attempt == 0
        end.begun.clear()
        async with serving(client, end, TASK):
            await call(client, WAIT_S)
        assert [method for method, _, _ in end.begun] == [CALLED, TASK]
