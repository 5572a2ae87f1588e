"""The directory service: who serves what, for people and for direct calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from plait.control.v1 import breaker_service_pb2 as breaker_pb
from plait.control.v1 import directory_service_pb2 as pb
from plait.control.v1 import directory_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.times import to_duration, to_timestamp
from plait_scheduler.domain.call_load import Load
from plait_scheduler.domain.directory import Directory, WorkerEntry
from plait_scheduler.domain.routes import method_of
from plait_scheduler.domain.worker_gates import WorkerGates
from plait_scheduler.servicers.breaker import STATES
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.xds.control_plane import ControlPlane, Rejection
from plait_scheduler.xds.load import Loads

PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Calls:
    """What is known of direct calls."""

    # Who is told where workers are.
    plane: ControlPlane
    # What they report.
    loads: Loads


@dataclass(frozen=True, slots=True)
class WorkerBreakers:
    """The breakers of workers, and the clock that they go by."""

    gates: WorkerGates
    monotonic_ms: Callable[[], int]

    def fill(self, worker: pb.Worker) -> None:
        """Says what the worker's breaker lets through; one that nothing was said of is closed."""
        breaker = self.gates.breakers().get(worker.worker)
        if breaker is None:
            worker.breaker = breaker_pb.BREAKER_STATE_CLOSED
            return
        worker.breaker = STATES[breaker.state]
        worker.breaker_openings = breaker.openings
        if left_ms := breaker.left_open_ms(self.monotonic_ms()):
            worker.breaker_open_for.CopyFrom(to_duration(left_ms))


class DirectoryServicer(pb_grpc.DirectoryServiceServicer):
    """Reads the directory."""

    def __init__(
        self,
        directory: Directory,
        doors: Doors,
        calls: Calls,
        breakers: WorkerBreakers,
    ) -> None:
        self._directory = directory
        self._plane, self._loads = calls.plane, calls.loads
        self._breakers = breakers
        self._doors = doors

    async def ListWorkers(
        self,
        request: pb.ListWorkersRequest,
        context: grpc.aio.ServicerContext[pb.ListWorkersRequest, pb.ListWorkersResponse],
    ) -> pb.ListWorkersResponse:
        """One page of the workers. The token is the place in the list, which may have changed
        meanwhile.
        """
        await self._doors.check(context)
        offset = await _offset(request.page_token, context)
        size = min(request.page_size, PAGE_SIZE_MAX) if request.page_size > 0 else PAGE_SIZE
        entries = self._directory.workers(request.method)
        return _page(entries, offset, size, self._breakers)

    async def GetDirectCalls(
        self,
        request: pb.GetDirectCallsRequest,
        context: grpc.aio.ServicerContext[pb.GetDirectCallsRequest, pb.GetDirectCallsResponse],
    ) -> pb.GetDirectCallsResponse:
        """What is known of direct calls, also while the broker is away."""
        return pb.GetDirectCallsResponse(
            clients=len(self._plane.clients),
            rejected=self._plane.rejected,
            rejections=[_rejection(each) for each in self._plane.rejections],
            loads=[_load(*each) for each in self._loads.all()],
        )


def _rejection(rejection: Rejection) -> pb.Rejection:
    return pb.Rejection(
        time=to_timestamp(rejection.time_ms),
        node=rejection.node,
        type=rejection.type_url.rpartition("/")[2],
        names=rejection.names,
        error=rejection.error,
    )


def _load(cluster: str, locality: str, load: Load) -> pb.ClusterLoad:
    return pb.ClusterLoad(
        cluster=cluster,
        locality=locality,
        issued=load.issued,
        succeeded=load.succeeded,
        failed=load.failed,
        dropped=load.dropped,
    )


async def _offset(
    token: str, context: grpc.aio.ServicerContext[pb.ListWorkersRequest, pb.ListWorkersResponse]
) -> int:
    if not token:
        return 0
    if not token.isascii() or not token.isdigit():
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f'page_token "{token}" is not ours')
    return int(token)


def _page(
    entries: Sequence[WorkerEntry], offset: int, size: int, breakers: WorkerBreakers
) -> pb.ListWorkersResponse:
    end = offset + size
    workers = [_worker(entry) for entry in entries[offset:end]]
    for worker in workers:
        breakers.fill(worker)
    return pb.ListWorkersResponse(
        workers=workers,
        next_page_token=str(end) if end < len(entries) else "",
    )


def _worker(entry: WorkerEntry) -> pb.Worker:
    figures = entry.figures
    return pb.Worker(
        worker=entry.attached.worker,
        name=entry.attached.name,
        version=entry.attached.version,
        client=entry.attached.client,
        methods=dict.fromkeys(map(method_of, entry.attached.methods)),
        slots=entry.slots,
        window=figures.window if figures else 0,
        in_flight=figures.in_flight if figures else 0,
        suspended=figures.suspended if figures else 0,
        succeeded=entry.succeeded,
        failed=entry.failed,
        attach_time=to_timestamp(entry.seen_ms),
        endpoint=entry.attached.endpoint,
    )
