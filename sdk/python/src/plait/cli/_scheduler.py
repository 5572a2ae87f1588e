"""Where the scheduler is."""

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
