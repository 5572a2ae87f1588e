"""The directory service: who serves what, for people and for direct calls."""

from collections.abc import Sequence

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from plait.control.v1 import directory_service_pb2 as pb
from plait.control.v1 import directory_service_pb2_grpc as pb_grpc
from plait_scheduler.domain.directory import Directory, WorkerEntry
from plait_scheduler.domain.routes import method_of
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.xds.control_plane import ControlPlane, Rejection
from plait_scheduler.xds.load import Load, Loads

PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000


class DirectoryServicer(pb_grpc.DirectoryServiceServicer):
    """Reads the directory."""

    def __init__(
        self,
        directory: Directory,
        doors: Doors,
        plane: ControlPlane,
        loads: Loads,
    ) -> None:
        self._directory = directory
        self._plane = plane
        self._loads = loads
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
        return _page(entries, offset, size)

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
        time=_timestamp(rejection.time_ms),
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


def _page(entries: Sequence[WorkerEntry], offset: int, size: int) -> pb.ListWorkersResponse:
    end = offset + size
    return pb.ListWorkersResponse(
        workers=[_worker(entry) for entry in entries[offset:end]],
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
        attach_time=_timestamp(entry.seen_ms),
        endpoint=entry.attached.endpoint,
    )


def _timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
