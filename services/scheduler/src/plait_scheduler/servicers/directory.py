"""The directory service: who serves what, for people and for direct calls."""

from collections.abc import Callable, Sequence

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from plait.control.v1 import directory_service_pb2 as pb
from plait.control.v1 import directory_service_pb2_grpc as pb_grpc
from plait_scheduler.domain.directory import Directory, WorkerEntry
from plait_scheduler.domain.routes import method_of

PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000


class DirectoryServicer(pb_grpc.DirectoryServiceServicer):
    """Reads the directory."""

    def __init__(self, directory: Directory, connected: Callable[[], bool]) -> None:
        self._directory = directory
        self._connected = connected

    async def ListWorkers(
        self,
        request: pb.ListWorkersRequest,
        context: grpc.aio.ServicerContext[pb.ListWorkersRequest, pb.ListWorkersResponse],
    ) -> pb.ListWorkersResponse:
        """One page of the workers. The token is the place in the list, which may have changed
        meanwhile.
        """
        if not self._connected():
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "the scheduler is not connected to the broker"
            )
        offset = await _offset(request.page_token, context)
        size = min(request.page_size, PAGE_SIZE_MAX) if request.page_size > 0 else PAGE_SIZE
        entries = self._directory.workers(request.method)
        return _page(entries, offset, size)


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
        attach_time=Timestamp(
            seconds=entry.seen_ms // 1000, nanos=entry.seen_ms % 1000 * 1_000_000
        ),
    )
