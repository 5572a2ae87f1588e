"""Rollouts of the wire as rollouts of the domain, and back."""

from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import rollout_service_pb2 as pb
from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.rollout import Plan, Rollback, Rollout, State, Step, Sticky
from plait_scheduler.domain.rollout_evidence import Evidence, Sample

_STICKY = {
    Sticky.TASK: control_pb.STICKY_KEY_UNSPECIFIED,
    Sticky.ORDERING_KEY: control_pb.STICKY_KEY_ORDERING,
    Sticky.IDEMPOTENCY_KEY: control_pb.STICKY_KEY_IDEMPOTENCY,
    Sticky.LIMIT_KEY: control_pb.STICKY_KEY_LIMIT,
}
_BY_NUMBER = {number: sticky for sticky, number in _STICKY.items()}
_STATES = {
    State.RUNNING: pb.ROLLOUT_STATE_RUNNING,
    State.PROMOTED: pb.ROLLOUT_STATE_PROMOTED,
    State.ABORTED: pb.ROLLOUT_STATE_ABORTED,
    State.ROLLED_BACK: pb.ROLLOUT_STATE_ROLLED_BACK,
}


def to_sticky(sticky: Sticky) -> control_pb.StickyKey.ValueType:
    """Of the wire."""
    return _STICKY[sticky]


def to_plan(request: pb.StartRolloutRequest, before: str) -> Plan | None:
    """Of the domain; None for a sticky key that this program does not know."""
    sticky = _BY_NUMBER.get(request.sticky)
    if sticky is None:
        return None
    steps = (Step(each.share, each.hold.ToMilliseconds()) for each in request.steps)
    return Plan(
        service=request.service,
        to=request.to,
        before=before,
        share=request.share,
        steps=tuple(steps),
        sticky=sticky,
        rollback=_rollback(request.rollback),
    )


def to_message(rollout: Rollout, evidence: Evidence | None) -> pb.Rollout:
    """Of the wire, with what was seen of it."""
    plan = rollout.plan
    message = pb.Rollout(
        service=plan.service,
        to=plan.to,
        state=_STATES[rollout.state],
        share=rollout.share,
        steps=[pb.RolloutStep(share=e.share, hold=to_duration(e.hold_ms)) for e in plan.steps],
        step=rollout.step,
        sticky=_STICKY[plan.sticky],
        rollback=pb.RollbackPolicy(
            off=plan.rollback.off,
            error_margin=plan.rollback.error_margin,
            latency_ratio=plan.rollback.latency_ratio,
            samples_min=plan.rollback.samples_min,
        ),
        started_at=_time(rollout.started_ms),
        changed_at=_time(rollout.changed_ms),
        reason=rollout.reason,
        events=[
            pb.RolloutEvent(at=_time(each.at_ms), share=each.share, reason=each.reason)
            for each in rollout.events
        ],
        salt=rollout.salt,
    )
    # A keyword of the language.
    setattr(message, "from", plan.before)
    if evidence is not None:
        total, calls, (own, others) = evidence.total(), evidence.calls(), evidence.workers
        message.own.CopyFrom(_side(own, total.own, calls.own))
        message.others.CopyFrom(_side(others, total.others, calls.others))
    return message


def _rollback(message: pb.RollbackPolicy) -> Rollback:
    rollback = Rollback(off=message.off)
    if message.HasField("error_margin"):
        rollback = replace(rollback, error_margin=message.error_margin)
    if message.HasField("latency_ratio"):
        rollback = replace(rollback, latency_ratio=message.latency_ratio)
    if message.HasField("samples_min"):
        rollback = replace(rollback, samples_min=message.samples_min)
    return rollback


def _side(workers: int, sample: Sample, calls: Sample) -> pb.RolloutSide:
    side = pb.RolloutSide(
        workers=workers,
        attempts=sample.attempts,
        failed=sample.failed,
        calls=calls.attempts,
        failed_calls=calls.failed,
    )
    if sample.timed:
        side.mean.CopyFrom(to_duration(sample.busy_ms // sample.timed))
        side.p90.CopyFrom(to_duration(sample.quantile_ms(0.9)))
    return side


def _time(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
