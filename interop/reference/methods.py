"""The broker's address, and the methods that it knows (protocol §1)."""

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from interop.reference import statuses
from plait.v1 import contract_service_pb2 as contracts
from plait.v1 import contract_service_pb2_grpc as contracts_rpc
from testing.v1 import echo_pb2

SERVICE = echo_pb2.DESCRIPTOR.services_by_name["EchoService"]
BACKOFF_S = (0.05, 2.0)
"""Before the first attempt to connect again, and at most."""
_CHANNEL = (
    # The library's own pauses between connections are over a second to begin with.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def dial() -> grpc.aio.Channel:
    """A channel to the broker at PLAIT_ADDRESS."""
    address = os.environ.get("PLAIT_ADDRESS", "127.0.0.1:7420")
    return grpc.aio.insecure_channel(address, options=_CHANNEL)


def path(method: str) -> str:
    """The full path of a method of the service: "Echo"."""
    return f"/{SERVICE.full_name}/{method}"


async def pause(failures: int) -> None:
    """Waits before the next attempt, after so many failures in a row: with full jitter."""
    first, most = BACKOFF_S
    await asyncio.sleep(random.uniform(0, min(most, first * 2 ** min(failures, 10))))


def of_route(route: str) -> str:
    """The full path of a route's method."""
    return route.partition("@")[0]


class Methods:
    """What the broker enforces for methods: asked for once each."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = contracts_rpc.ContractServiceStub(channel)
        self._known: dict[str, contracts.MethodInfo] = {}
        self._asking = asyncio.Lock()

    async def announce(self) -> contracts.AnnounceContractResponse:
        """Makes the service known, for a worker. Raises StatusError when its contract is
        refused."""
        failures = 0
        while True:
            try:
                return await self._stub.AnnounceContract(_announcement(for_worker=True))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise statuses.of_call(error) from None
            await pause(failures)
            failures += 1

    async def resolve(self, method: str) -> contracts.MethodInfo:
        """What is known of a method under this contract. Raises StatusError."""
        async with self._asking:
            if method not in self._known:
                self._known[method] = await self._ask(method)
            return self._known[method]

    def drop(self, method: str) -> None:
        """Forgets what was known: the broker says that it does not know the method."""
        self._known.pop(method, None)

    async def _ask(self, method: str) -> contracts.MethodInfo:
        failures = 0
        while True:
            try:
                announced = await self._stub.AnnounceContract(_announcement(for_worker=False))
                return next(each for each in announced.methods if each.method == method)
            except grpc.aio.AioRpcError as error:
                refusal = statuses.of_call(error)
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise refusal from None
            if refusal.reason == "SCHEDULER_UNAVAILABLE":
                # Nobody can decide on it now; the contract in force will do.
                request = contracts.ResolveMethodsRequest(methods=[method])
                with contextlib.suppress(grpc.aio.AioRpcError):
                    for known in (await self._stub.ResolveMethods(request)).methods:
                        return known
            await pause(failures)
            failures += 1


def _announcement(*, for_worker: bool) -> contracts.AnnounceContractRequest:
    return contracts.AnnounceContractRequest(
        descriptor_set=_descriptors(), services=[SERVICE.full_name], for_worker=for_worker
    )


def _descriptors() -> bytes:
    """The service's file and its imports, each after those that it needs."""
    seen: set[str] = set()
    files = FileDescriptorSet()
    for file in _in_order(SERVICE.file, seen):
        file.CopyToProto(files.file.add())
    return files.SerializeToString(deterministic=True)


def _in_order(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    if file.name in seen or file.name.startswith("google/protobuf/"):
        return
    seen.add(file.name)
    for needed in file.dependencies:
        yield from _in_order(needed, seen)
    yield file
