"""The commands of `plait schedule`."""

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from plait.cli import _messages
from plait.cli._api import Api
from plait.cli._command import Exit, Stop, split_method
from plait.cli._output import duration
from plait.cli._scheduler import scheduler_channel
from plait.cli._time import moment_of, span_of
from plait.v1 import options_pb2
from plait.v1 import schedule_service_pb2 as pb
from plait.v1 import schedule_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_COLUMNS = ("SCHEDULE", "TIMES", "METHOD", "NEXT", "LAST", "RUNS", "")
_RUNS = ("FIRE TIME", "SUBMITTED", "CAUSE", "TASK")
_NEXT_SHOWN = 3


async def create(api: Api, name: str, text: str, request: str, said: dict[str, Any]) -> Exit:
    """Shows it as it is then."""
    method = await _messages.find(api, text)
    message = method.parse(_messages.read_text(request))
    schedule = _declared(name, method.path, message, said)
    put = pb.PutScheduleRequest(
        schedule=schedule,
        must_not_exist=not said["replace"],
        validate_only=said["dry_run"],
        next_times=5 if said["dry_run"] else 1,
    )
    async with _service(api) as stub:
        answer = await stub.PutSchedule(put, timeout=api.timeout)
    verb = "created" if answer.created else "changed"
    head = f"{name} would be {verb}" if said["dry_run"] else f"{name} {verb}"
    times = ", ".join(map(_text, answer.entry.status.next_times)) or "never"
    api.output.item(answer.entry, f"{head}; next: {times}")
    return Exit.OK


async def list_schedules(api: Api) -> Exit:
    """All of them."""
    found: list[pb.ScheduleEntry] = []
    token = ""
    async with _service(api) as stub:
        while True:
            request = pb.ListSchedulesRequest(page_token=token)
            answer = await stub.ListSchedules(request, timeout=api.timeout)
            found += answer.entries
            token = answer.next_page_token
            if not token:
                break
    api.output.items("schedules", found, _COLUMNS, (_row(each) for each in found))
    return Exit.OK


async def show(api: Api, name: str) -> Exit:
    """One, with its request decoded, for people."""
    entry = await _get(api, name, _NEXT_SHOWN)
    lines = [*_head(entry), await _request(api, entry.schedule), *_counts(entry.status)]
    lines += [f"  next      {_text(each)}" for each in entry.status.next_times]
    if entry.status.runs:
        lines.append(f"  {'  '.join(_RUNS)}")
    lines += [
        f"  {_text(run.fire_time)}  {_text(run.submit_time)}  {_cause(run)}  {run.task}"
        for run in entry.status.runs
    ]
    api.output.item(entry, "\n".join(line for line in lines if line))
    return Exit.OK


async def show_next(api: Api, name: str, count: int) -> Exit:
    """One time a line."""
    entry = await _get(api, name, count)
    times = [each.ToJsonString() for each in entry.status.next_times]
    api.output.data({"nextTimes": times}, "\n".join(map(_text, entry.status.next_times)))
    return Exit.OK


async def pause(api: Api, name: str, note: str) -> Exit:
    """Shows it as it is then."""
    async with _service(api) as stub:
        request = pb.PauseScheduleRequest(name=name, note=note)
        answer = await stub.PauseSchedule(request, timeout=api.timeout)
    api.output.item(answer.entry, f"{name} paused")
    return Exit.OK


async def resume(api: Api, name: str, note: str) -> Exit:
    """Shows it as it is then."""
    async with _service(api) as stub:
        request = pb.ResumeScheduleRequest(name=name, note=note)
        answer = await stub.ResumeSchedule(request, timeout=api.timeout)
    times = ", ".join(map(_text, answer.entry.status.next_times)) or "never"
    api.output.item(answer.entry, f"{name} resumed; next: {times}")
    return Exit.OK


async def trigger(api: Api, name: str, request_id: str) -> Exit:
    """Prints the task's id."""
    async with _service(api) as stub:
        request = pb.TriggerScheduleRequest(name=name, request_id=request_id)
        answer = await stub.TriggerSchedule(request, timeout=api.timeout)
    api.output.data({"id": answer.task}, answer.task)
    return Exit.OK


async def backfill(api: Api, name: str, start: str, end: str | None, *, dry_run: bool) -> Exit:
    """Prints how many runs they are."""
    request = pb.BackfillScheduleRequest(
        name=name,
        start_time=_time(start),
        end_time=_time(end or datetime.now(UTC).isoformat()),
        validate_only=dry_run,
    )
    async with _service(api) as stub:
        answer = await stub.BackfillSchedule(request, timeout=api.timeout)
    api.output.data({"count": answer.count}, f"{answer.count} runs")
    return Exit.OK


async def delete(api: Api, name: str) -> Exit:
    """Says so."""
    async with _service(api) as stub:
        await stub.DeleteSchedule(pb.DeleteScheduleRequest(name=name), timeout=api.timeout)
    api.output.data({"name": name}, f"{name} deleted")
    return Exit.OK


@contextlib.asynccontextmanager
async def _service(api: Api) -> "AsyncIterator[pb_grpc.ScheduleServiceAsyncStub]":
    async with scheduler_channel(api) as channel:
        yield pb_grpc.ScheduleServiceStub(channel)


async def _get(api: Api, name: str, count: int) -> pb.ScheduleEntry:
    async with _service(api) as stub:
        request = pb.GetScheduleRequest(name=name, next_times=count)
        return (await stub.GetSchedule(request, timeout=api.timeout)).entry


def _declared(name: str, path: str, message: Message, said: dict[str, Any]) -> pb.Schedule:
    overlap = said["overlap"].upper().replace("-", "_")
    return pb.Schedule(
        name=name,
        method=path,
        request=message.SerializeToString(deterministic=True),
        cron=said["cron"] or "",
        every=_span(said["every"]),
        anchor=_time(said["anchor"]),
        timezone=said["timezone"] or "",
        start_time=_time(said["start"]),
        end_time=_time(said["end"]),
        jitter=_span(said["jitter"]),
        overlap=options_pb2.OverlapPolicy.Value(f"OVERLAP_POLICY_{overlap}"),
        missed=options_pb2.MissedPolicy.Value(f"MISSED_POLICY_{said['missed'].upper()}"),
        catch_up_window=_span(said["catch_up"]),
        priority=said["priority"],
    )


def _span(text: str | None) -> Duration | None:
    if text is None:
        return None
    made = Duration()
    made.FromTimedelta(span_of(text))
    return made


def _time(text: str | None) -> Timestamp | None:
    if text is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment_of(text))
    return made


def _text(time: Timestamp) -> str:
    return str(time.ToJsonString())


def _cause(run: pb.ScheduleRun) -> str:
    return pb.ScheduleRunCause.Name(run.cause).removeprefix("SCHEDULE_RUN_CAUSE_")


def _times(schedule: pb.Schedule) -> str:
    if not schedule.cron:
        return f"every {duration(schedule.every)}"
    return f"{schedule.cron} {schedule.timezone}".strip()


def _row(entry: pb.ScheduleEntry) -> tuple[str, ...]:
    status = entry.status
    marks = [*(["paused"] if status.paused else []), *(["contract"] if status.managed else [])]
    return (
        entry.schedule.name,
        _times(entry.schedule),
        entry.schedule.method.lstrip("/"),
        _text(status.next_times[0]) if status.next_times else "",
        _text(status.runs[0].fire_time) if status.runs else "",
        str(status.run_count),
        ", ".join([*marks, *(["refused"] if status.last_error else [])]),
    )


def _head(entry: pb.ScheduleEntry) -> list[str]:
    schedule, status = entry.schedule, entry.status
    overlap = options_pb2.OverlapPolicy.Name(schedule.overlap).removeprefix("OVERLAP_POLICY_")
    missed = options_pb2.MissedPolicy.Name(schedule.missed).removeprefix("MISSED_POLICY_")
    paused = f" (paused{': ' + status.note if status.note else ''})" if status.paused else ""
    return [
        f"{schedule.name}{paused}",
        f"  times     {_times(schedule)}",
        f"  from      {_text(schedule.start_time)}" if schedule.HasField("start_time") else "",
        f"  to        {_text(schedule.end_time)}" if schedule.HasField("end_time") else "",
        f"  jitter    {duration(schedule.jitter)}" if schedule.HasField("jitter") else "",
        f"  method    {schedule.method.lstrip('/')}",
        f"  overlap   {overlap}",
        f"  missed    {missed}, within {duration(schedule.catch_up_window)}",
        "  declared by the contract" if status.managed else "",
    ]


def _counts(status: pb.ScheduleStatus) -> list[str]:
    counts = (
        ("runs", status.run_count),
        ("skipped", status.skipped_count),
        ("missed", status.missed_count),
        ("refused", status.refused_count),
        ("back-fill", status.backfill_count),
    )
    lines = [f"  {name:<9} {count}" for name, count in counts if count]
    if status.buffered:
        lines.append("  a run waits for the end of the one before")
    if status.last_error:
        lines.append(f"  refused   {status.last_error}")
    return lines


async def _request(api: Api, schedule: pb.Schedule) -> str:
    """As JSON where the contract is there."""
    if not schedule.request:
        return ""
    try:
        method = await _messages.find(api, "/".join(split_method(schedule.method)))
    except Stop:
        return f"  request   {schedule.request.hex()}"
    return f"  request   {method.decode(method.request, schedule.request)}"
