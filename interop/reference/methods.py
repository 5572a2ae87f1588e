"""The broker's address, and the methods that it knows (protocol §1)."""

import asyncio
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


class Methods:
    """What the broker enforces for methods: asked for once each."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = contracts_rpc.ContractServiceStub(channel)
        self._known: dict[str, contracts.MethodInfo] = {}
        self._asking = asyncio.Lock()

    async def announce(self) -> None:
        """Makes the service known. Raises StatusError when its contract is refused."""
        request = contracts.AnnounceContractRequest(
            descriptor_set=_descriptors(), services=[SERVICE.full_name]
        )
        failures = 0
        while True:
            try:
                await self._stub.AnnounceContract(request)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise statuses.of_call(error) from None
            await pause(failures)
            failures += 1

    async def resolve(self, method: str) -> contracts.MethodInfo:
        """What is known of a method; announces the contract first when nobody did. Raises
        StatusError."""
        async with self._asking:
            if method not in self._known:
                if (found := await self._ask(method)) is None:
                    await self.announce()
                    found = await self._ask(method)
                if found is None:
                    raise RuntimeError(f"{method} is not known after it was announced")
                self._known[method] = found
            return self._known[method]

    def drop(self, method: str) -> None:
        """Forgets what was known: the broker says that it does not know the method."""
        self._known.pop(method, None)

    async def _ask(self, method: str) -> contracts.MethodInfo | None:
        failures = 0
        while True:
            try:
                request = contracts.ResolveMethodsRequest(methods=[method])
                answer = await self._stub.ResolveMethods(request)
                return next(iter(answer.methods), None)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise statuses.of_call(error) from None
            await pause(failures)
            failures += 1


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
