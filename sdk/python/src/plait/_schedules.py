"""Schedules that a program declares: put at the scheduler, as often as the program starts."""

from datetime import datetime, timedelta
from typing import Literal, TypedDict

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from plait import _wire, retry
from plait._callees import ADDRESS_KEY
from plait._limit import seconds_of
from plait._statuses import from_parts
from plait.control.v1 import key_value_service_pb2, key_value_service_pb2_grpc
from plait.v1 import options_pb2
from plait.v1 import schedule_service_pb2 as pb
from plait.v1 import schedule_service_pb2_grpc as pb_grpc

# For one answer of the scheduler or the broker.
_ANSWER_S = 10.0


class ScheduleOptions(TypedDict, total=False):
    """When a schedule runs, and how: docs/schedules.md. Exactly one of cron and every."""

    cron: str
    """Five fields (minute, hour, day of month, month, day of week), "@daily" and the like."""
    every: float | timedelta
    """The same distance between all runs, in seconds: 0.1 s to 365 days."""
    anchor: datetime
    """Where `every` counts from, with a time zone. Default: 1970."""
    timezone: str
    """Of `cron`, such as "Europe/Berlin". Default "UTC"."""
    start: datetime
    """No run is before it. With a time zone. Default: from now on."""
    end: datetime
    """No run is after it. With a time zone. Default: none."""
    jitter: float | timedelta
    """Each run is late by a share of this, in seconds. Default 0."""
    overlap: Literal["skip", "allow", "buffer_one", "cancel_previous"]
    """What happens while the run before is not finished. Default "skip"."""
    missed: Literal["once", "skip", "all"]
    """What becomes of runs that no scheduler was there for. Default "once"."""
    catch_up: float | timedelta
    """How far back missed runs count, in seconds. Default 365 days."""
    priority: int
    """Of its tasks, 0 to 9, higher first. Default: the policy's."""


def schedule_of(name: str, path: str, request: bytes, said: ScheduleOptions) -> pb.Schedule:
    """The message that says it. Raises ValueError for a time without a zone, or a policy that does
    not exist.
    """
    overlap = said.get("overlap", "unspecified").upper()
    missed = said.get("missed", "unspecified").upper()
    return pb.Schedule(
        name=name,
        method=path,
        request=request,
        cron=said.get("cron", ""),
        every=_duration(said.get("every")),
        anchor=_timestamp(said.get("anchor")),
        timezone=said.get("timezone", ""),
        start_time=_timestamp(said.get("start")),
        end_time=_timestamp(said.get("end")),
        jitter=_duration(said.get("jitter")),
        overlap=options_pb2.OverlapPolicy.Value(f"OVERLAP_POLICY_{overlap}"),
        missed=options_pb2.MissedPolicy.Value(f"MISSED_POLICY_{missed}"),
        catch_up_window=_duration(said.get("catch_up")),
        priority=said.get("priority"),
    )


async def put(broker: grpc.aio.Channel, schedule: pb.Schedule) -> pb.ScheduleEntry:
    """Creates or changes it, and waits for a scheduler to do so. Raises AioRpcError."""
    request = pb.PutScheduleRequest(schedule=schedule, next_times=1)
    answer = pb.PutScheduleResponse()
    async for trial in retry.connection():
        with trial:
            async with _wire.open_channel(await _address(broker)) as channel:
                stub: pb_grpc.ScheduleServiceAsyncStub = pb_grpc.ScheduleServiceStub(channel)
                answer = await stub.PutSchedule(request, timeout=_ANSWER_S)
    return answer.entry


async def _address(broker: grpc.aio.Channel) -> str:
    """Of the scheduler. Looked up each time: another one may have taken over."""
    keys = key_value_service_pb2_grpc.KeyValueServiceStub(broker)
    request = key_value_service_pb2.GetEntryRequest(key=ADDRESS_KEY)
    answer = await keys.GetEntry(request, wait_for_ready=True)
    if not answer.HasField("entry"):
        code = grpc.StatusCode.UNAVAILABLE.value[0]
        raise from_parts(code, "no scheduler runs, which keeps schedules", b"")
    return answer.entry.value.decode()


def _duration(value: float | timedelta | None) -> Duration | None:
    if value is None:
        return None
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds_of(value)))
    return made


def _timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone")
    made = Timestamp()
    made.FromDatetime(value)
    return made
