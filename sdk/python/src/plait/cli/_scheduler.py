"""Where the scheduler is, and the way to it."""

import contextlib
from collections.abc import AsyncIterator

import grpc

from plait import _wire, errors
from plait.cli._api import Api
from plait.cli._command import Exit, Stop
from plait.control.v1 import key_value_service_pb2, key_value_service_pb2_grpc

# Where the scheduler says where it listens.
_ADDRESS_KEY = "scheduler/address"


async def scheduler_address(api: Api) -> str:
    """Its address, as the broker knows it. Stop where there is none: no scheduler runs."""
    space = key_value_service_pb2_grpc.KeyValueServiceStub(api.channel)
    request = key_value_service_pb2.GetEntryRequest(key=_ADDRESS_KEY)
    answer = await space.GetEntry(request, timeout=api.timeout)
    if not answer.HasField("entry"):
        raise Stop(Exit.UNREACHABLE, "no scheduler runs")
    return answer.entry.value.decode()


@contextlib.asynccontextmanager
async def scheduler_channel(api: Api) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to it. Stop where none runs, or where calls do not reach it."""
    address = await scheduler_address(api)
    async with _wire.open_channel(address) as channel:
        try:
            yield channel
        except grpc.aio.AioRpcError as error:
            # With a reason it is the scheduler that refuses.
            if error.code() is grpc.StatusCode.UNAVAILABLE and errors.reason(error) is None:
                text = f"cannot reach the scheduler at {address}: {error.details()}"
                raise Stop(Exit.UNREACHABLE, text) from error
            raise
