"""The broker's small key space, where the scheduler keeps its state."""

from dataclasses import dataclass

import grpc

from plait.control.v1 import key_value_service_pb2 as pb
from plait.control.v1 import key_value_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.channel import CALL_SECONDS
from plait_scheduler.broker.retry import bounded

# The version that a key has that does not exist.
ABSENT = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its version."""

    value: bytes
    version: int


class VersionMismatchError(Exception):
    """Somebody else has written the key."""


class KeyValue:
    """Compare-and-swap on versions. Errors are grpc.aio.AioRpcError where not said otherwise."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.KeyValueServiceAsyncStub = pb_grpc.KeyValueServiceStub(channel)

    async def get(self, key: str) -> Entry | None:
        """The entry; None where there is none."""
        request = pb.GetEntryRequest(key=key)
        response = pb.GetEntryResponse()
        async for attempt in bounded():
            with attempt:
                response = await self._stub.GetEntry(request, timeout=CALL_SECONDS)
        if not response.HasField("entry"):
            return None
        return Entry(response.entry.value, response.entry.version)

    async def put(self, key: str, value: bytes, expected_version: int | None = None) -> int:
        """Writes the key durably and returns its new version.

        With an expected version, raises VersionMismatchError where the key has another one; ABSENT:
        where it exists.
        """
        request = pb.PutEntryRequest(key=key, value=value, expected_version=expected_version)
        try:
            response = await self._stub.PutEntry(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                raise VersionMismatchError(key) from error
            raise
        return response.version

    async def delete(self, key: str, expected_version: int | None = None) -> None:
        """Removes the key. With an expected version, raises VersionMismatchError where it has
        another one.
        """
        request = pb.DeleteEntryRequest(key=key, expected_version=expected_version)
        try:
            await self._stub.DeleteEntry(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                raise VersionMismatchError(key) from error
            raise
