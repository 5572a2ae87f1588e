"""The fields of a declared schedule, checked one by one; every fault is collected, none is raised.

The same for a request of the API and for an option of a contract.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from plait_scheduler.domain.schedule import GRACE_MS, WINDOW_MS, Missed, Overlap, Schedule
from plait_scheduler.domain.schedule_times import (
    TIME_MS_MAX,
    TimesError,
    parse_times,
    parse_zone,
)
from plait_scheduler.domain.units import DAY_MS, format_ms

# The name is part of a key in the broker's key space, whose keys have at most 256 bytes.
NAME_MAX = 200
REQUEST_BYTES_MAX = 64 * 1024
JITTER_MS_MAX = DAY_MS

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_METHOD = re.compile(r"/[A-Za-z0-9_.]+/[A-Za-z0-9_]+", re.ASCII)
# Values of plait.v1.OverlapPolicy and plait.v1.MissedPolicy.
_OVERLAPS = {
    0: Overlap.SKIP,
    1: Overlap.SKIP,
    2: Overlap.ALLOW,
    3: Overlap.BUFFER_ONE,
    4: Overlap.CANCEL_PREVIOUS,
}
_MISSED = {0: Missed.ONCE, 1: Missed.ONCE, 2: Missed.SKIP, 3: Missed.ALL}


class Fault(NamedTuple):
    """What is wrong with a field."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class ScheduleFields:
    """A schedule as it was written. None: the field is not set."""

    name: str
    method: str
    request: bytes = b""
    cron: str = ""
    every_ms: int | None = None
    anchor_ms: int = 0
    timezone: str = ""
    start_ms: int | None = None
    end_ms: int | None = None
    jitter_ms: int | None = None
    # Numbers of the enums; 0: not set.
    overlap: int = 0
    missed: int = 0
    catch_up_ms: int | None = None
    priority: int | None = None
    managed: bool = False


def check(fields: ScheduleFields) -> tuple[Schedule | None, list[Fault]]:
    """The schedule, or all that is wrong with it."""
    faults = [*_names(fields), *_times(fields), *_numbers(fields), *_bounds(fields)]
    if faults:
        return None, faults
    return (
        Schedule(
            name=fields.name,
            method=fields.method,
            request=fields.request,
            cron=fields.cron,
            every_ms=fields.every_ms or 0,
            anchor_ms=fields.anchor_ms,
            timezone=fields.timezone,
            start_ms=fields.start_ms,
            end_ms=fields.end_ms,
            jitter_ms=fields.jitter_ms or 0,
            overlap=_OVERLAPS[fields.overlap],
            missed=_MISSED[fields.missed],
            catch_up_ms=WINDOW_MS if fields.catch_up_ms is None else fields.catch_up_ms,
            priority=fields.priority,
            managed=fields.managed,
        ),
        [],
    )


def _names(fields: ScheduleFields) -> list[Fault]:
    faults = []
    if not _NAME.fullmatch(fields.name):
        text = f'"{fields.name[:NAME_MAX]}" is not 1 to {NAME_MAX} of A-Z a-z 0-9 . _ -'
        faults.append(Fault("name", text))
    if not _METHOD.fullmatch(fields.method):
        faults.append(
            Fault("method", f'"{fields.method[:NAME_MAX]}" is no /package.Service/Method')
        )
    if len(fields.request) > REQUEST_BYTES_MAX:
        text = f"has {len(fields.request)} bytes; at most {REQUEST_BYTES_MAX}"
        faults.append(Fault("request", text))
    return faults


def _times(fields: ScheduleFields) -> list[Fault]:
    try:
        parse_zone(fields.timezone)
    except TimesError as error:
        return [Fault("timezone", str(error))]
    if fields.every_ms is not None and not fields.every_ms:
        return [Fault("every", "an interval is within 100 ms to 365 d")]
    try:
        parse_times(fields.cron, fields.every_ms or 0, fields.anchor_ms, fields.timezone)
    except TimesError as error:
        return [Fault("cron" if fields.cron else "every", str(error))]
    return []


def _numbers(fields: ScheduleFields) -> list[Fault]:
    faults = []
    if fields.overlap not in _OVERLAPS:
        faults.append(Fault("overlap", f"{fields.overlap} is no policy that is known"))
    if fields.missed not in _MISSED:
        faults.append(Fault("missed", f"{fields.missed} is no policy that is known"))
    if fields.priority is not None and not 0 <= fields.priority <= 9:
        faults.append(Fault("priority", f"{fields.priority} is not within 0 to 9"))
    if not 0 <= (fields.jitter_ms or 0) <= JITTER_MS_MAX:
        faults.append(Fault("jitter", f"is not within 0 to {format_ms(JITTER_MS_MAX)}"))
    if fields.catch_up_ms is not None and not GRACE_MS <= fields.catch_up_ms <= WINDOW_MS:
        text = f"is not within {format_ms(GRACE_MS)} to {format_ms(WINDOW_MS)}"
        faults.append(Fault("catch_up_window", text))
    return faults


def _bounds(fields: ScheduleFields) -> list[Fault]:
    faults = []
    for name, ms in (
        ("anchor", fields.anchor_ms),
        ("start_time", fields.start_ms),
        ("end_time", fields.end_ms),
    ):
        if ms is not None and not 0 <= ms <= TIME_MS_MAX:
            faults.append(Fault(name, "is not within the years 1970 to 8999"))
    end_ms = TIME_MS_MAX if fields.end_ms is None else fields.end_ms
    if fields.start_ms is not None and end_ms < fields.start_ms:
        faults.append(Fault("end_time", "is before start_time"))
    return faults
