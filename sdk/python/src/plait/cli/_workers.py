"""The commands of `plait worker`."""

import grpc

from plait import _wire
from plait.cli._api import Api
from plait.cli._command import Exit, Stop, split_method
from plait.cli._output import age
from plait.control.v1 import (
    directory_service_pb2,
    directory_service_pb2_grpc,
    key_value_service_pb2,
    key_value_service_pb2_grpc,
)

# Where the scheduler says where it listens.
_ADDRESS_KEY = "scheduler/address"
_COLUMNS = ("NAME", "WORKER", "VERSION", "SLOTS", "RUNNING", "SUSPENDED", "DONE", "FAILED", "AGE")


async def list_workers(api: Api, method: str) -> Exit:
    """From the scheduler's directory."""
    path = "/" + "/".join(split_method(method)) if method else ""
    async with _wire.open_channel(await _scheduler(api)) as channel:
        found = await _read(api, channel, path)
    rows = (
        (
            each.name,
            each.worker,
            each.version,
            str(each.slots),
            str(each.in_flight),
            str(each.suspended),
            str(each.succeeded),
            str(each.failed),
            age(each.attach_time),
        )
        for each in found
    )
    api.output.items("workers", found, _COLUMNS, rows)
    return Exit.OK


async def _read(
    api: Api, channel: grpc.aio.Channel, path: str
) -> list[directory_service_pb2.Worker]:
    directory = directory_service_pb2_grpc.DirectoryServiceStub(channel)
    found: list[directory_service_pb2.Worker] = []
    token = ""
    while True:
        request = directory_service_pb2.ListWorkersRequest(
            method=path, page_size=1000, page_token=token
        )
        answer = await directory.ListWorkers(request, timeout=api.timeout)
        found += answer.workers
        token = answer.next_page_token
        if not token:
            return found


async def _scheduler(api: Api) -> str:
    space = key_value_service_pb2_grpc.KeyValueServiceStub(api.channel)
    try:
        answer = await space.GetEntry(
            key_value_service_pb2.GetEntryRequest(key=_ADDRESS_KEY), timeout=api.timeout
        )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise Stop(Exit.UNREACHABLE, "no scheduler has been here yet") from error
        raise
    return answer.entry.value.decode()
