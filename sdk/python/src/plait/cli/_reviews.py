"""Reviews of contracts by the scheduler: what changes, leave to change it, and the history."""

import contextlib
import hashlib
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from plait.cli._api import Api
from plait.cli._command import Exit, Stop
from plait.cli._output import duration
from plait.cli._person import myself
from plait.cli._scheduler import scheduler_channel
from plait.control.v1 import contract_review_service_pb2 as pb
from plait.control.v1 import contract_review_service_pb2_grpc as pb_grpc
from plait.v1 import contract_service_pb2, task_pb2

_GROUPS = (
    (pb.CHANGE_EFFECT_REFUSED, "refused"),
    (pb.CHANGE_EFFECT_NEEDS_DRAIN, "needs work drained"),
    (pb.CHANGE_EFFECT_HARMLESS, "harmless"),
)
_LOG_COLUMNS = ("DECIDED", "VERSION", "WORKERS", "CONTRACT", "BROKE", "ALLOWED BY", "REASON")
_COUNTED_EXACTLY = 10_000


@contextlib.asynccontextmanager
async def reviews(api: Api) -> AsyncIterator["pb_grpc.ContractReviewServiceAsyncStub"]:
    """The scheduler's service."""
    async with scheduler_channel(api) as channel:
        yield pb_grpc.ContractReviewServiceStub(channel)


async def ask(
    api: Api, request: contract_service_pb2.AnnounceContractRequest
) -> pb.ReviewContractResponse:
    """What an announcement would be told now."""
    async with reviews(api) as service:
        wanted = pb.ReviewContractRequest(
            descriptor_set=request.descriptor_set, services=request.services
        )
        return await service.ReviewContract(wanted, timeout=api.timeout)


async def allow(
    api: Api, request: contract_service_pb2.AnnounceContractRequest, reason: str
) -> None:
    """Leave for this announcement, whatever it breaks."""
    async with reviews(api) as service:
        wanted = pb.AllowContractRequest(
            digest=hashlib.sha256(request.descriptor_set).hexdigest(),
            services=request.services,
            reason=reason,
            allowed_by=myself(),
        )
        await service.AllowContract(wanted, timeout=api.timeout)


async def decisions(api: Api, service: str) -> list[pb.ContractDecision]:
    """The history of a service, newest first. Stop where there is none."""
    async with reviews(api) as stub:
        request = pb.ListContractDecisionsRequest(service=service)
        answer = await stub.ListContractDecisions(request, timeout=api.timeout)
    if not answer.decisions:
        raise Stop(Exit.NOT_FOUND, f"nothing was ever decided on {service}")
    return list(answer.decisions)


async def show_log(api: Api, service: str) -> Exit:
    """A line for each decision."""
    found = await decisions(api, service)
    api.output.items("decisions", found, _LOG_COLUMNS, (_row(each) for each in found))
    return Exit.OK


def review_text(answer: pb.ReviewContractResponse) -> str:
    """Every service with its changes, grouped, worst first."""
    lines: list[str] = []
    for review in answer.services:
        lines.append(review.service + _summary(review))
        for effect, name in _GROUPS:
            changes = [each for each in review.changes if each.effect == effect]
            if changes:
                lines.append(f"  {name}:")
            for change in changes:
                lines += _change(change)
    return "\n".join(lines)


def is_breaking(answer: pb.ReviewContractResponse) -> bool:
    """Whether anything would be refused outside development."""
    changes = (change for review in answer.services for change in review.changes)
    return any(change.effect != pb.CHANGE_EFFECT_HARMLESS for change in changes)


def decision_lines(decision: pb.ContractDecision) -> list[str]:
    """One decision, for people."""
    decided = f"decided {_when(decision.decide_time)}"
    lines = [
        f"  version {decision.version}, {_workers(decision)}, {decided}",
        f"  contract {decision.digest}",
    ]
    if decision.reason:
        when = _when(decision.allow_time)
        lines.append(f"  allowed by {decision.allowed_by} at {when}: {decision.reason}")
    elif decision.overridden:
        lines.append("  tolerated in development")
    return lines + [f"    {each}" for each in decision.overridden]


def beside_line(decision: pb.ContractDecision) -> str:
    """A version that is served beside the one in force, for people."""
    return f"  beside it version {decision.version}, {_workers(decision)}"


def _workers(decision: pb.ContractDecision) -> str:
    return f"{decision.workers} worker{'' if decision.workers == 1 else 's'}"


def _summary(review: pb.ServiceReview) -> str:
    if not review.in_force:
        return ": new"
    return "" if review.changes else ": nothing changes"


def _change(change: pb.ContractChange) -> list[str]:
    lines = [f"    {change.subject}: {change.description} ({change.kind})"]
    if change.HasField("work"):
        lines += [f"      {each}" for each in _work(change.work)]
    if change.advice:
        lines.append(f"      to do: {change.advice}")
    return lines


def _work(work: pb.AffectedWork) -> list[str]:
    total = sum(each.count for each in work.counts) + work.recorded_children
    if not total:
        return ["not all tasks could be looked at in time, so some may be concerned"]
    counts = [f"{each.count} {_state(each.state)}" for each in work.counts]
    if work.recorded_children:
        counts.append(f"{work.recorded_children} on record in unfinished flows")
    many = f"{total} task{'s' if total > 1 else ''}"
    if work.more:
        many = f"{'more than' if total >= _COUNTED_EXACTLY else 'at least'} {many}"
    rest = ", ..." if work.more or total > len(work.first_tasks) else ""
    return [
        f"{many}: {', '.join(counts)}; the oldest for {duration(work.oldest_age)}",
        f"{', '.join(work.first_tasks)}{rest}",
    ]


def _state(state: "task_pb2.TaskState.ValueType") -> str:
    name = task_pb2.TaskState.Name(state).removeprefix("TASK_STATE_")
    return "in the dead letters" if name == "FAILED" else name


def _row(decision: pb.ContractDecision) -> tuple[str, ...]:
    return (
        _when(decision.decide_time),
        f"{decision.version}{' beside' if decision.beside else ''}",
        str(decision.workers or ""),
        decision.digest[:12],
        str(len(decision.overridden) or ""),
        decision.allowed_by,
        " ".join(decision.reason.split()),
    )


def _when(time: Timestamp) -> str:
    return f"{time.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"
