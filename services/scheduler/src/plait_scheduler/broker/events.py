"""Events of the wire as events of the domain."""

from collections.abc import Sequence

from plait.control.v1 import control_service_pb2 as pb
from plait_scheduler.domain.events import (
    ContractAnnounced,
    Event,
    Figures,
    LostAttempts,
    MethodFigures,
    QueueFigures,
    SideFigures,
    SplitFigures,
    WorkerAttached,
    WorkerDetached,
    WorkerFigures,
)


def to_event(response: pb.ObserveResponse) -> Event | None:
    """None for an event that this program does not know."""
    match response.WhichOneof("event"):
        case "contract_announced":
            return _announced(response.contract_announced)
        case "worker_attached":
            return _attached(response.worker_attached)
        case "worker_detached":
            return WorkerDetached(response.worker_detached.worker, response.worker_detached.reason)
        case "figures":
            return _figures(response.figures)
        case _:
            return None


def _announced(message: pb.ContractAnnounced) -> ContractAnnounced:
    return ContractAnnounced(
        announcement=message.announcement,
        descriptor_set=message.descriptor_set,
        services=tuple(message.services),
        validate_only=message.validate_only,
        digest=message.digest,
        for_worker=message.for_worker,
        replace=message.replace,
    )


def _attached(message: pb.WorkerAttached) -> WorkerAttached:
    return WorkerAttached(
        worker=message.worker,
        name=message.name or message.worker,
        version=message.version,
        client=message.client,
        methods=tuple(message.methods),
        slots=message.slots,
        contracts=tuple(message.contracts),
        endpoint=message.endpoint,
    )


def _said(worker: pb.WorkerFigures, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    columns = zip(worker.methods, worker.well, worker.ill, strict=False)
    return {names[place]: (well, ill) for place, well, ill in columns if place < len(names)}


def _figures(message: pb.Figures) -> Figures:
    names = [method.method for method in message.methods]
    return Figures(
        interval_ms=message.interval.seconds * 1000 + message.interval.nanos // 1_000_000,
        workers=tuple(
            WorkerFigures(
                worker=worker.worker,
                slots=worker.slots,
                window=worker.window,
                in_flight=worker.in_flight,
                suspended=worker.suspended,
                succeeded=worker.succeeded,
                failed=worker.failed,
                busy_ms=worker.busy_ms,
                said=_said(worker, names),
                said_nothing=worker.said_nothing,
                permits=worker.permits if worker.HasField("permits") else None,
            )
            for worker in message.workers
        ),
        methods=tuple(
            MethodFigures(
                method=method.method,
                fresh_outcomes=tuple(method.fresh_outcomes),
                permits=method.permits if method.HasField("permits") else None,
            )
            for method in message.methods
        ),
        queues=tuple(
            QueueFigures(
                queue=queue.queue,
                ready=queue.ready,
                oldest_ready_ms=queue.oldest_ready_ms,
                running=queue.running,
                paused=queue.paused,
            )
            for queue in message.queues
        ),
        lost=tuple(
            LostAttempts(each.worker, each.attempts, tuple(each.tasks)) for each in message.lost
        ),
        splits=tuple(
            SplitFigures(each.method, each.version, _side(each.own), _side(each.others))
            for each in message.splits
        ),
        early=message.early,
    )


def _side(message: pb.SideFigures) -> SideFigures:
    return SideFigures(
        workers=message.workers,
        outcomes=tuple(message.outcomes),
        lost=message.lost,
        busy_ms=message.busy_ms,
        spans=tuple(message.spans),
    )
