"""Schedules as messages of the wire, and back."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from plait.v1 import options_pb2
from plait.v1 import schedule_service_pb2 as pb
from plait_scheduler.broker.times import to_duration, to_timestamp
from plait_scheduler.domain.schedule import Cause, Missed, Overlap, Run, Schedule, State
from plait_scheduler.domain.schedule_fields import ScheduleFields

_CAUSES = {
    Cause.TIME: pb.SCHEDULE_RUN_CAUSE_TIME,
    Cause.TRIGGER: pb.SCHEDULE_RUN_CAUSE_TRIGGER,
    Cause.BACKFILL: pb.SCHEDULE_RUN_CAUSE_BACKFILL,
}
_OVERLAPS = {
    Overlap.SKIP: options_pb2.OVERLAP_POLICY_SKIP,
    Overlap.ALLOW: options_pb2.OVERLAP_POLICY_ALLOW,
    Overlap.BUFFER_ONE: options_pb2.OVERLAP_POLICY_BUFFER_ONE,
    Overlap.CANCEL_PREVIOUS: options_pb2.OVERLAP_POLICY_CANCEL_PREVIOUS,
}
_MISSED = {
    Missed.ONCE: options_pb2.MISSED_POLICY_ONCE,
    Missed.SKIP: options_pb2.MISSED_POLICY_SKIP,
    Missed.ALL: options_pb2.MISSED_POLICY_ALL,
}


def to_fields(message: pb.Schedule) -> ScheduleFields:
    """What a request says, not yet checked."""
    return ScheduleFields(
        name=message.name,
        method=message.method,
        request=message.request,
        cron=message.cron,
        every_ms=_ms_of(message.every) if message.HasField("every") else None,
        anchor_ms=message.anchor.ToMilliseconds(),
        timezone=message.timezone,
        start_ms=message.start_time.ToMilliseconds() if message.HasField("start_time") else None,
        end_ms=message.end_time.ToMilliseconds() if message.HasField("end_time") else None,
        jitter_ms=_ms_of(message.jitter) if message.HasField("jitter") else None,
        overlap=message.overlap,
        missed=message.missed,
        catch_up_ms=(
            _ms_of(message.catch_up_window) if message.HasField("catch_up_window") else None
        ),
        priority=message.priority if message.HasField("priority") else None,
    )


def to_message(schedule: Schedule, *, with_request: bool = True) -> pb.Schedule:
    """What was declared."""
    return pb.Schedule(
        name=schedule.name,
        method=schedule.method,
        request=schedule.request if with_request else b"",
        cron=schedule.cron,
        every=to_duration(schedule.every_ms) if schedule.every_ms else None,
        anchor=to_timestamp(schedule.anchor_ms) if schedule.anchor_ms else None,
        timezone=schedule.timezone,
        start_time=None if schedule.start_ms is None else to_timestamp(schedule.start_ms),
        end_time=None if schedule.end_ms is None else to_timestamp(schedule.end_ms),
        jitter=to_duration(schedule.jitter_ms) if schedule.jitter_ms else None,
        overlap=_OVERLAPS[schedule.overlap],
        missed=_MISSED[schedule.missed],
        catch_up_window=to_duration(schedule.catch_up_ms),
        priority=schedule.priority,
    )


def to_status(schedule: Schedule, state: State, next_ms: Iterable[int]) -> pb.ScheduleStatus:
    """How it is with it."""
    return pb.ScheduleStatus(
        paused=state.paused,
        note=state.note,
        managed=schedule.managed,
        next_times=map(to_timestamp, next_ms),
        runs=map(_run, state.runs),
        run_count=state.run_count,
        skipped_count=state.skipped,
        missed_count=state.missed,
        refused_count=state.refused,
        last_error=state.last_error,
        buffered=state.buffered_ms is not None,
        backfill_count=sum(each.left for each in state.backfills),
        create_time=to_timestamp(state.create_ms),
    )


def _run(run: Run) -> pb.ScheduleRun:
    return pb.ScheduleRun(
        fire_time=to_timestamp(run.fire_ms),
        submit_time=to_timestamp(run.submit_ms),
        task=run.task,
        cause=_CAUSES[run.cause],
    )


def _ms_of(value: Duration) -> int:
    return value.seconds * 1000 + value.nanos // 1_000_000
