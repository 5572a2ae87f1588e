"""The broker's small key space, where the scheduler keeps its state."""

from dataclasses import dataclass

import grpc

from plait.control.v1 import key_value_service_pb2 as pb
from plait.control.v1 import key_value_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.channel import CALL_SECONDS
from plait_scheduler.broker.epoch import Epoch, deposed_by
from plait_scheduler.broker.retry import bounded

# The version that a key has that does not exist.
ABSENT = 0
# Values may have up to 1 MiB, so a page is bounded by what a message may have in the worst case.
PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its version."""

    value: bytes
    version: int


class VersionMismatchError(Exception):
    """Somebody else has written the key."""


class KeyValue:
    """Compare-and-swap on versions. Errors are grpc.aio.AioRpcError where not said otherwise."""

    def __init__(self, channel: grpc.aio.Channel, epoch: Epoch | None = None) -> None:
        """`epoch` is that of whoever writes; None: a write is not checked for it."""
        self._epoch = epoch or Epoch()
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

    async def all(self, prefix: str) -> dict[str, Entry]:
        """All entries whose key starts with this, by key."""
        found: dict[str, Entry] = {}
        token = ""
        while True:
            request = pb.ListEntriesRequest(prefix=prefix, page_size=PAGE_SIZE, page_token=token)
            response = pb.ListEntriesResponse()
            async for attempt in bounded():
                with attempt:
                    response = await self._stub.ListEntries(request, timeout=CALL_SECONDS)
            for entry in response.entries:
                found[entry.key] = Entry(entry.value, entry.version)
            token = response.next_page_token
            if not token:
                return found

    async def list(self, prefix: str, seconds: float) -> dict[str, Entry]:
        """The first entries with a prefix, at one instant."""
        request = pb.ListEntriesRequest(prefix=prefix)
        response = await self._stub.ListEntries(request, timeout=seconds)
        return {each.key: Entry(each.value, each.version) for each in response.entries}

    async def put(
        self,
        key: str,
        value: bytes,
        expected_version: int | None = None,
        *,
        seconds: float = CALL_SECONDS,
    ) -> int:
        """Writes the key durably and returns its new version.

        With an expected version, raises VersionMismatchError where the key has another one; ABSENT:
        where it exists.
        """
        request = pb.PutEntryRequest(key=key, value=value, expected_version=expected_version)
        try:
            response = await self._stub.PutEntry(
                request, timeout=seconds, metadata=self._epoch.metadata()
            )
        except grpc.aio.AioRpcError as error:
            if _is_mismatch(error):
                raise VersionMismatchError(key) from error
            raise
        return response.version

    async def delete(self, key: str, expected_version: int | None = None) -> None:
        """Removes the key. With an expected version, raises VersionMismatchError where it has
        another one.
        """
        request = pb.DeleteEntryRequest(key=key, expected_version=expected_version)
        try:
            await self._stub.DeleteEntry(
                request, timeout=CALL_SECONDS, metadata=self._epoch.metadata()
            )
        except grpc.aio.AioRpcError as error:
            if _is_mismatch(error):
                raise VersionMismatchError(key) from error
            raise


def _is_mismatch(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.ABORTED and deposed_by(error) is None
