"""The commands of `plait rollout`."""

import contextlib
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from plait.cli._api import Api
from plait.cli._command import Exit, Stop
from plait.cli._output import duration
from plait.cli._scheduler import scheduler_channel
from plait.cli._time import span_of
from plait.control.v1 import control_service_pb2
from plait.control.v1 import rollout_service_pb2 as pb
from plait.control.v1 import rollout_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_COLUMNS = ("SERVICE", "TO", "FROM", "STATE", "SHARE", "STEP", "WHY")
_STICKY = {
    "task": control_service_pb2.STICKY_KEY_UNSPECIFIED,
    "ordering-key": control_service_pb2.STICKY_KEY_ORDERING,
    "idempotency-key": control_service_pb2.STICKY_KEY_IDEMPOTENCY,
    "limit-key": control_service_pb2.STICKY_KEY_LIMIT,
}


async def start(api: Api, service: str, said: dict[str, Any]) -> Exit:
    """Shows it as it is then."""
    if said["steps"] and said["percent"]:
        raise Stop(Exit.USAGE, "--steps have the shares: leave --percent out")
    margin, ratio = said["error_margin"], said["latency_ratio"]
    request = pb.StartRolloutRequest(
        service=service,
        to=said["to"],
        share=_share(said["percent"] or "0"),
        steps=_steps(said["steps"]),
        sticky=_STICKY[said["sticky"]],
        rollback=pb.RollbackPolicy(
            off=said["no_rollback"],
            error_margin=None if margin is None else _share(margin),
            latency_ratio=None if ratio is None else round(ratio * 1000),
            samples_min=said["min_samples"],
        ),
    )
    if said["before"] is not None:
        # A keyword of the language.
        setattr(request, "from", said["before"])
    async with _service(api) as stub:
        answer = await stub.StartRollout(request, timeout=api.timeout)
    return _tell(api, answer.rollout)


async def set_share(api: Api, service: str, percent: str) -> Exit:
    """Shows it as it is then."""
    request = pb.SetRolloutRequest(service=service, share=_share(percent))
    async with _service(api) as stub:
        answer = await stub.SetRollout(request, timeout=api.timeout)
    return _tell(api, answer.rollout)


async def promote(api: Api, service: str) -> Exit:
    """Shows it as it is then."""
    async with _service(api) as stub:
        request = pb.PromoteRolloutRequest(service=service)
        answer = await stub.PromoteRollout(request, timeout=api.timeout)
    return _tell(api, answer.rollout)


async def abort(api: Api, service: str, reason: str) -> Exit:
    """Shows it as it is then."""
    async with _service(api) as stub:
        request = pb.AbortRolloutRequest(service=service, reason=reason)
        answer = await stub.AbortRollout(request, timeout=api.timeout)
    return _tell(api, answer.rollout)


async def end(api: Api, service: str) -> Exit:
    """Says so."""
    async with _service(api) as stub:
        await stub.EndRollout(pb.EndRolloutRequest(service=service), timeout=api.timeout)
    api.output.data({"service": service}, f"{service}: all versions take tasks")
    return Exit.OK


async def show(api: Api, service: str) -> Exit:
    """One, with what happened to it."""
    async with _service(api) as stub:
        request = pb.GetRolloutRequest(service=service)
        rollout = (await stub.GetRollout(request, timeout=api.timeout)).rollout
    lines = [
        _head(rollout),
        f"  why       {rollout.reason}",
        f"  since     {_text(rollout.changed_at)}",
        f"  started   {_text(rollout.started_at)}",
        *(_step(rollout, number) for number in range(len(rollout.steps))),
        _side(rollout.to, rollout.own),
        _side("others", rollout.others),
        *(f"  {_text(e.at)}  {_percent(e.share):>7}  {e.reason}" for e in rollout.events),
    ]
    api.output.item(rollout, "\n".join(lines))
    return Exit.OK


async def list_rollouts(api: Api) -> Exit:
    """By service."""
    async with _service(api) as stub:
        answer = await stub.ListRollouts(pb.ListRolloutsRequest(), timeout=api.timeout)
    rows = (
        (
            each.service,
            each.to,
            _before(each),
            _state(each),
            _percent(each.share),
            f"{min(each.step + 1, len(each.steps))}/{len(each.steps)}" if each.steps else "",
            each.reason,
        )
        for each in answer.rollouts
    )
    api.output.items("rollouts", answer.rollouts, _COLUMNS, rows)
    return Exit.OK


@contextlib.asynccontextmanager
async def _service(api: Api) -> "AsyncIterator[pb_grpc.RolloutServiceAsyncStub]":
    async with scheduler_channel(api) as channel:
        yield pb_grpc.RolloutServiceStub(channel)


def _tell(api: Api, rollout: pb.Rollout) -> Exit:
    api.output.item(rollout, f"{_head(rollout)}; {rollout.reason}")
    return Exit.OK


def _share(text: str) -> int:
    """Parts of 10,000."""
    try:
        parts = Decimal(text.removesuffix("%")) * 100
        if not 0 <= parts <= 10_000 or parts % 1:
            raise InvalidOperation
    except InvalidOperation as error:
        message = f'"{text}" is no percentage: write 0 to 100, to 2 places after the point'
        raise Stop(Exit.USAGE, message) from error
    return int(parts)


def _steps(text: str | None) -> list[pb.RolloutStep]:
    steps = []
    for each in text.split(",") if text else ():
        percent, colon, hold = each.strip().partition(":")
        if not colon:
            raise Stop(Exit.USAGE, f'"{each}" is no step: write PERCENT:SPAN, such as 10:30m')
        made = Duration()
        made.FromTimedelta(span_of(hold))
        steps.append(pb.RolloutStep(share=_share(percent), hold=made))
    return steps


def _head(rollout: pb.Rollout) -> str:
    before = _before(rollout)
    of = f" (from {before})" if before else ""
    share = _percent(rollout.share)
    return f"{rollout.service}: version {rollout.to}{of} {_state(rollout)}, {share}"


def _before(rollout: pb.Rollout) -> str:
    return str(getattr(rollout, "from"))


def _state(rollout: pb.Rollout) -> str:
    return pb.RolloutState.Name(rollout.state).removeprefix("ROLLOUT_STATE_")


def _percent(share: int) -> str:
    return f"{share / 100:g} %"


def _step(rollout: pb.Rollout, number: int) -> str:
    step = rollout.steps[number]
    mark = ">" if number == rollout.step else " "
    return f"{mark} step {number + 1}    {_percent(step.share)} for {duration(step.hold)}"


def _side(name: str, side: pb.RolloutSide) -> str:
    times = f", 90 % within {duration(side.p90)}" if side.HasField("p90") else ""
    workers = f"{side.workers} worker{'' if side.workers == 1 else 's'}"
    attempts = f"{side.failed} of {side.attempts} attempts failed{times}"
    calls = f", {side.failed_calls} of {side.calls} direct calls failed" if side.calls else ""
    return f"  {name:<9} {workers}, {attempts}{calls}"


def _text(time: Timestamp) -> str:
    return str(time.ToJsonString())
