"""The commands of `plait breaker`."""

from plait.cli._api import Api
from plait.cli._command import Exit
from plait.cli._output import duration
from plait.cli._scheduler import scheduler_channel
from plait.control.v1 import breaker_service_pb2 as pb
from plait.control.v1 import breaker_service_pb2_grpc as pb_grpc

_COLUMNS = ("METHOD", "STATE", "FOR", "TRIED AGAIN IN", "OPENED")


async def list_breakers(api: Api, *, everything: bool) -> Exit:
    """From the scheduler."""
    async with scheduler_channel(api) as channel:
        stub = pb_grpc.BreakerServiceStub(channel)
        answer = await stub.ListBreakers(pb.ListBreakersRequest(), timeout=api.timeout)
    closed = pb.BREAKER_STATE_CLOSED
    found = [each for each in answer.breakers if everything or each.state != closed]
    rows = (
        (
            each.method.lstrip("/"),
            pb.BreakerState.Name(each.state).removeprefix("BREAKER_STATE_"),
            duration(each.age),
            duration(each.open_for) if each.HasField("open_for") else "",
            str(each.openings or ""),
        )
        for each in found
    )
    api.output.items("breakers", found, _COLUMNS, rows)
    return Exit.OK
