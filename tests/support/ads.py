"""A client of the control plane, driven by hand: discovery (ADS) message by message."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from plait_xds import (
    cluster_pb2,
    core_pb2,
    discovery_pb2,
    discovery_pb2_grpc,
    endpoint_pb2,
    listener_pb2,
    route_pb2,
)

M = TypeVar("M", bound=Message)

_PREFIX = "type.googleapis.com/"
LISTENERS = _PREFIX + listener_pb2.Listener.DESCRIPTOR.full_name
ROUTES = _PREFIX + route_pb2.RouteConfiguration.DESCRIPTOR.full_name
CLUSTERS = _PREFIX + cluster_pb2.Cluster.DESCRIPTOR.full_name
ENDPOINTS = _PREFIX + endpoint_pb2.ClusterLoadAssignment.DESCRIPTOR.full_name

# User agents, as the libraries send them.
C_CORE = "gRPC C-core linux"
GO = "gRPC Go"
NODE = "gRPC Node Pure JS"
WAIT_S = 40.0

_numbers = itertools.count(1)


class Ads:
    """One stream."""

    def __init__(self, opened: grpc.aio.Channel, agent: str) -> None:
        stub: discovery_pb2_grpc.AggregatedDiscoveryServiceAsyncStub
        stub = discovery_pb2_grpc.AggregatedDiscoveryServiceStub(opened)
        self._call = stub.StreamAggregatedResources()
        self.node = core_pb2.Node(id=f"by-hand-{next(_numbers)}", user_agent_name=agent)

    async def say(
        self,
        type_url: str,
        names: Sequence[str],
        answer: discovery_pb2.DiscoveryResponse | None = None,
        error: str = "",
    ) -> None:
        """Subscribes; with an answer, takes it or, with an error, does not."""
        request = discovery_pb2.DiscoveryRequest(
            node=self.node, type_url=type_url, resource_names=names
        )
        if answer is not None:
            request.response_nonce, request.version_info = answer.nonce, answer.version_info
        if error:
            request.error_detail.CopyFrom(status_pb2.Status(code=3, message=error))
        await self._call.write(request)

    async def hear(self, type_url: str = "") -> discovery_pb2.DiscoveryResponse:
        """The next response. Raises AssertionError when it is of another type, AioRpcError when the
        stream ended."""
        async with asyncio.timeout(WAIT_S):
            answer = await self._call.read()
            if not isinstance(answer, discovery_pb2.DiscoveryResponse):
                raise grpc.aio.AioRpcError(
                    await self._call.code(),
                    grpc.aio.Metadata(),
                    grpc.aio.Metadata(),
                    await self._call.details(),
                )
        assert not type_url or answer.type_url == type_url, answer
        return answer

    async def ask(self, type_url: str, *names: str) -> discovery_pb2.DiscoveryResponse:
        """Subscribes, and takes the answer."""
        await self.say(type_url, names)
        answer = await self.hear(type_url)
        await self.say(type_url, names, answer)
        return answer


def unpack(answer: discovery_pb2.DiscoveryResponse, kind: type[M]) -> list[M]:
    """The resources of an answer."""
    found = []
    for resource in answer.resources:
        message = kind()
        assert resource.Unpack(message), resource.type_url
        found.append(message)
    return found


@contextlib.asynccontextmanager
async def ads(scheduler: str, agent: str = GO) -> AsyncIterator[Ads]:
    """A stream to the scheduler at an address, as an implementation of gRPC."""
    async with grpc.aio.insecure_channel(scheduler) as opened:
        yield Ads(opened, agent)
