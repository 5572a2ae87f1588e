"""The aggregated discovery service, state of the world: one stream a client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeAlias

import grpc
import structlog

from plait_scheduler.xds.control_plane import Client, ControlPlane
from plait_scheduler.xds.subscription import SubscriptionError
from plait_xds import discovery_pb2 as pb
from plait_xds import discovery_pb2_grpc as pb_grpc

# Streams at once: one for each channel of each program that calls.
STREAMS_MAX: Final = 2_000

_Context: TypeAlias = "grpc.aio.ServicerContext[pb.DiscoveryRequest, pb.DiscoveryResponse]"


class DiscoveryServicer(pb_grpc.AggregatedDiscoveryServiceServicer):
    """Tells each client what it subscribed to, again whenever it changes. Holds no queue: a client
    that reads slowly is told the newest state when it reads.
    """

    def __init__(self, plane: ControlPlane, now_ms: Callable[[], int]) -> None:
        self._plane = plane
        self._now_ms = now_ms
        self._log = structlog.get_logger("xds")

    async def StreamAggregatedResources(
        self, request_iterator: AsyncIterator[pb.DiscoveryRequest], context: _Context
    ) -> AsyncIterator[pb.DiscoveryResponse]:
        """Ends with the client, or with UNAVAILABLE where this scheduler has nothing to say."""
        if len(self._plane.clients) >= STREAMS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS_MAX} clients are connected already"
            )
        client = Client()
        self._plane.clients.add(client)
        reader = asyncio.create_task(self._read(request_iterator, client), name="xds-reader")
        reader.add_done_callback(lambda _: client.wake.set())
        try:
            while not reader.done():
                if self._plane.closed:
                    where = f": ask the one at {self._plane.leader}" if self._plane.leader else ""
                    await context.abort(
                        grpc.StatusCode.UNAVAILABLE, f"this scheduler does not lead{where}"
                    )
                for response in client.subscription.due(self._plane.choose):
                    yield response
                await client.wake.wait()
                client.wake.clear()
            await self._end(reader, context)
        finally:
            self._plane.clients.discard(client)
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, requests: AsyncIterator[pb.DiscoveryRequest], client: Client) -> None:
        async for request in requests:
            answer = client.subscription.take(request)
            if answer is not None:
                self._plane.answered(client, answer, self._now_ms())
            client.wake.set()

    async def _end(self, reader: "asyncio.Task[None]", context: _Context) -> None:
        try:
            reader.result()
        except SubscriptionError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except grpc.RpcError:
            return
