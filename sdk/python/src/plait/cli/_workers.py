"""The commands of `plait worker`."""

import grpc

from plait.cli._api import Api
from plait.cli._command import Exit, Stop, method_path
from plait.cli._output import age, duration
from plait.cli._scheduler import scheduler_channel
from plait.control.v1 import (
    breaker_service_pb2,
    directory_service_pb2,
    directory_service_pb2_grpc,
)

_COLUMNS = (
    *("NAME", "WORKER", "VERSION", "SLOTS", "RUNNING", "SUSPENDED", "DONE", "FAILED", "BREAKER"),
    "AGE",
)
_CLOSED = breaker_service_pb2.BREAKER_STATE_CLOSED


async def list_workers(api: Api, method: str) -> Exit:
    """From the scheduler's directory."""
    path = method_path(method) if method else ""
    async with scheduler_channel(api) as channel:
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
            _breaker(each),
            age(each.attach_time),
        )
        for each in found
    )
    api.output.items("workers", found, _COLUMNS, rows)
    return Exit.OK


async def get_worker(api: Api, worker: str) -> Exit:
    """One of them, with everything."""
    async with scheduler_channel(api) as channel:
        found = [each for each in await _read(api, channel, "") if each.worker == worker]
    if not found:
        raise Stop(
            Exit.NOT_FOUND,
            f"no worker {worker} is attached: `plait worker list` has those that are",
        )
    api.output.item(found[0], _details(found[0]))
    return Exit.OK


def _details(worker: directory_service_pb2.Worker) -> str:
    lines = [
        f"{worker.worker} ({worker.name} {worker.version}, {worker.client})",
        f"  slots {worker.slots}, window {worker.window}, running {worker.in_flight}, "
        f"suspended {worker.suspended}",
        f"  done {worker.succeeded}, failed {worker.failed}",
        f"  attached {age(worker.attach_time)} ago",
        *_breaker_lines(worker),
        *(f"  {method.lstrip('/')}" for method in worker.methods),
    ]
    return "\n".join(lines)


def _breaker_lines(worker: directory_service_pb2.Worker) -> list[str]:
    """Why it gets nothing, or little."""
    why = f"its attempts failed and its peers' did not (opened {worker.breaker_openings} times)"
    if worker.breaker == breaker_service_pb2.BREAKER_STATE_OPEN:
        left = duration(worker.breaker_open_for)
        return [f"  breaker OPEN: it gets no attempts, tried again in {left}; {why}"]
    if worker.breaker == breaker_service_pb2.BREAKER_STATE_HALF_OPEN:
        return [f"  breaker HALF_OPEN: it gets a few probes; {why}"]
    return []


def _breaker(worker: directory_service_pb2.Worker) -> str:
    """ "" for one that is closed, as most are; a scheduler of before knows none."""
    if worker.breaker in (_CLOSED, breaker_service_pb2.BREAKER_STATE_UNSPECIFIED):
        return ""
    return breaker_service_pb2.BreakerState.Name(worker.breaker).removeprefix("BREAKER_STATE_")


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
