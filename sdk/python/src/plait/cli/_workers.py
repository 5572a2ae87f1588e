"""The commands of `plait worker`."""

import grpc

from plait import _wire
from plait.cli._api import Api
from plait.cli._command import Exit, split_method
from plait.cli._output import age
from plait.cli._scheduler import scheduler_address
from plait.control.v1 import directory_service_pb2, directory_service_pb2_grpc

_COLUMNS = ("NAME", "WORKER", "VERSION", "SLOTS", "RUNNING", "SUSPENDED", "DONE", "FAILED", "AGE")


async def list_workers(api: Api, method: str) -> Exit:
    """From the scheduler's directory."""
    path = "/" + "/".join(split_method(method)) if method else ""
    async with _wire.open_channel(await scheduler_address(api)) as channel:
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
