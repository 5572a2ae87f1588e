"""Direct calls in tests: workers that say who they are, and channels as any gRPC client opens
them."""

import collections
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc

import plait
from plait.control.v1 import directory_service_pb2 as directory_pb
from plait.control.v1 import directory_service_pb2_grpc as directory_grpc
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import Caller, Mesh
from tests.support.waiting import elapse, eventually

ECHO = "testing.v1.EchoService"
WAIT_S = 40.0
# A channel's own bootstrap, so that channels of one process may ask several schedulers.
_BOOTSTRAP = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"


def bootstrap(*schedulers: str) -> str:
    """What a user writes into the file that GRPC_XDS_BOOTSTRAP names."""
    servers = [
        {
            "server_uri": scheduler,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }
        for scheduler in schedulers
    ]
    node = {"id": "a-test", "locality": {"region": "plait", "zone": "mesh"}}
    return json.dumps({"xds_servers": servers, "node": node})


def address_of(mesh: Mesh) -> str:
    """Where the mesh's scheduler listens."""
    assert mesh.scheduler is not None
    return mesh.scheduler.address


def direct(caller: Caller) -> Any:
    """The stub for direct calls."""
    return echo_pb2_grpc.EchoServiceStub(caller.plait.direct())


def channel(mesh: Mesh, service: str = ECHO, *, at: tuple[str, ...] = ()) -> grpc.aio.Channel:
    """gRPC's own channel to a service, with nothing of ours. `at`: schedulers that it may ask, in
    place of the mesh's."""
    options = [(_BOOTSTRAP, bootstrap(*(at or (address_of(mesh),))))]
    return grpc.aio.insecure_channel(f"xds:///{service}", options=options)


class Named(echo_pb2_grpc.EchoServiceServicer):
    """Answers with its name; `Fail` fails as often as it is told, counted by message; `Sleep` calls
    `Once` first."""

    def __init__(self, name: str, inner: Any) -> None:
        self.name = name
        self.calls: collections.Counter[str] = collections.Counter()
        # Seconds that handlers had left when they began.
        self.left: list[float] = []
        # Calls of `Echo`, and what they fail with; None: they do not.
        self.echoes = 0
        self.code: grpc.StatusCode | None = None
        # Metadata that handlers saw.
        self.seen: list[dict[str, str | bytes]] = []
        self._inner = inner

    async def Echo(self, request: echo_pb2.EchoRequest, context: Any) -> echo_pb2.EchoResponse:
        self.echoes += 1
        if self.code is not None:
            await context.abort(self.code, "as told")
        self.seen.append({str(key): value for key, value in context.invocation_metadata()})
        return echo_pb2.EchoResponse(payload=self.name.encode())

    async def Fail(self, request: echo_pb2.FailRequest, context: Any) -> echo_pb2.FailResponse:
        self.calls[request.message] += 1
        if self.calls[request.message] <= request.failures:
            code = next(each for each in grpc.StatusCode if each.value[0] == request.code)
            await context.abort(code, request.message)
        return echo_pb2.FailResponse(attempt=self.calls[request.message])

    async def Sleep(self, request: echo_pb2.SleepRequest, context: Any) -> echo_pb2.SleepResponse:
        self.left.append(context.time_remaining())
        await self._inner.Once(echo_pb2.OnceRequest())
        await elapse(request.duration.ToTimedelta().total_seconds())
        return echo_pb2.SleepResponse()

    async def Append(self, request: echo_pb2.AppendRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody calls it")

    async def Flow(self, request: echo_pb2.FlowRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody calls it")

    async def Inspect(self, request: echo_pb2.InspectRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody calls it")

    async def Scalars(self, request: echo_pb2.ScalarsRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody calls it")

    async def Once(self, request: echo_pb2.OnceRequest, context: Any) -> echo_pb2.OnceResponse:
        self.left.append(context.time_remaining())
        return echo_pb2.OnceResponse()


@contextlib.asynccontextmanager
async def worker(mesh: Mesh, name: str, version: str = "") -> AsyncIterator[Named]:
    """A worker of this process that listens, until the block ends: then it drains."""
    async with plait.connect(mesh.address) as client:
        servicer = Named(name, echo_pb2_grpc.EchoServiceStub(client.direct()))
        running = client.worker(name=name, version=version, listen="127.0.0.1:0")
        running.serve(servicer, echo_pb2_grpc.add_EchoServiceServicer_to_server)
        async with running:
            yield servicer


async def names(stub: Any, count: int = 20) -> "collections.Counter[str]":
    """Who answers so many calls."""
    answers = [await stub.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S) for _ in range(count)]
    return collections.Counter(each.payload.decode() for each in answers)


async def answered_by(stub: Any, *wanted: str) -> None:
    """Waits until these answer, and nobody else. Calls may find nobody meanwhile."""

    async def ask() -> set[str]:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return set(await names(stub))
        return set()

    await eventually(ask, lambda found: found == set(wanted), WAIT_S)


async def direct_calls(mesh: Mesh) -> directory_pb.GetDirectCallsResponse:
    """What the scheduler knows of them."""
    async with grpc.aio.insecure_channel(address_of(mesh)) as opened:
        stub: directory_grpc.DirectoryServiceAsyncStub = directory_grpc.DirectoryServiceStub(opened)
        return await stub.GetDirectCalls(directory_pb.GetDirectCallsRequest(), timeout=WAIT_S)
