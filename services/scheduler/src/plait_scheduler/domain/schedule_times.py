"""When a schedule runs: the times of a cron expression or of an interval, and the jitter on them.

Times are milliseconds since 1970. A cron expression is read in a time zone, with the rules of
Debian's cron for the two changes of the clocks:
- With fixed hours and minutes ("30 2 * * *") a time that does not exist runs once, as the clocks
  have gone forward; a time that comes twice runs the first time.
- With a star at the beginning of its minutes or hours ("*/15 * * * *", "30 * * * *") it runs by
  what the clock shows: never at times that do not exist, and at both of two.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from plait_scheduler.domain.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

EXPRESSION_MAX = 200
EVERY_MS_MIN = 100
EVERY_MS_MAX = 365 * DAY_MS
# The year 9000: later times are no dates everywhere.
TIME_MS_MAX = 221_845_305_600_000

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EVERY = "@every "
_UNITS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
# No zone changes its clocks by more; what is looked for backwards is found forwards from so long
# before.
_MARGIN_MS = 26 * HOUR_MS


class TimesError(ValueError):
    """The text says what is wrong."""


class Times(Protocol):
    """Times that recur."""

    def after(self, ms: int) -> int | None:
        """The first time after this one; None: there is none."""
        ...

    def latest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """The latest times within (after, until], at most so many, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class NoTimes:
    """None at all."""

    def after(self, ms: int) -> None:
        """There is none."""

    def latest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """There are none."""
        return []


@dataclass(frozen=True, slots=True)
class IntervalTimes:
    """The same distance between all."""

    every_ms: int
    anchor_ms: int = 0

    def after(self, ms: int) -> int | None:
        """Always one."""
        return self.anchor_ms + ((ms - self.anchor_ms) // self.every_ms + 1) * self.every_ms

    def latest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """Computed, however many there are."""
        last = self.anchor_ms + (until_ms - self.anchor_ms) // self.every_ms * self.every_ms
        first = max(self.after(after_ms) or last, last - (most - 1) * self.every_ms)
        return list(range(first, last + 1, self.every_ms))


@dataclass(frozen=True, slots=True)
class CronTimes:
    """A cron expression in a time zone. cronsim says what a clock must show, no more: its own way
    through the changes of the clocks misses times where they change by half an hour.
    """

    expression: str
    zone: tzinfo

    def after(self, ms: int) -> int | None:
        """None where nothing matches for 50 years."""
        return next(self._forwards(ms), None)

    def latest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """Looks back only as far as it must."""
        found: deque[int] = deque(maxlen=most)
        for ms in self._forwards(max(after_ms, self._back(after_ms, until_ms, most))):
            if ms > until_ms:
                break
            found.append(ms)
        return list(found)

    def _back(self, after_ms: int, until_ms: int, most: int) -> int:
        """A time with at least so many between it and the end, if there are so many."""
        start = self._shown(until_ms + SECOND_MS)
        for count, local in enumerate(CronSim(self.expression, start, reverse=True), 1):
            ms = _ms(local.replace(tzinfo=self.zone))
            if ms <= after_ms:
                return after_ms
            if count >= most:
                return ms - _MARGIN_MS
        return after_ms

    def _forwards(self, ms: int) -> Iterator[int]:
        """What a clock shows twice is held until the second time comes."""
        last = ms
        held: list[int] = []
        start = self._shown(ms) - timedelta(milliseconds=self._shown_again_ms(ms))
        for local in CronSim(self.expression, start):
            first, *second = self._instants(local) or (None,)
            if first is None:
                continue
            while held and held[0] < first:
                yield held.pop(0)
            if first > TIME_MS_MAX:
                return
            if first > last:
                last = first
                yield first
            held += [each for each in second if each > ms]
        yield from held

    def _instants(self, local: datetime) -> list[int]:
        """When the clock shows it, and a run is due."""
        moments = [local.replace(tzinfo=self.zone, fold=fold) for fold in (0, 1)]
        found = sorted({_ms(moment) for moment in moments if _exists(moment)})
        if self._by_clock:
            return found
        return found[:1] or [self._change_ms(*(_ms(moment) for moment in moments))]

    @property
    def _by_clock(self) -> bool:
        """Whether minutes or hours begin with a star."""
        minute, hour = self.expression.split()[:2]
        return minute.startswith("*") or hour.startswith("*")

    def _shown(self, ms: int) -> datetime:
        return datetime.fromtimestamp(ms // SECOND_MS, self.zone).replace(tzinfo=None, fold=0)

    def _shown_again_ms(self, ms: int) -> int:
        """How far the clocks go back about this time: so much is to come although what they show
        has passed.
        """
        offsets = [self._offset_ms(ms + days * DAY_MS) for days in (-1, 0, 1)]
        return max(offsets[0], offsets[1]) - min(offsets[1], offsets[2])

    def _offset_ms(self, ms: int) -> int:
        offset = datetime.fromtimestamp(max(ms, 0) / SECOND_MS, self.zone).utcoffset()
        return int(offset.total_seconds()) * SECOND_MS if offset else 0

    def _change_ms(self, high: int, low: int) -> int:
        """When the clocks go forward, between the two readings of a time that does not exist."""
        before = self._offset_ms(low)
        while high - low > SECOND_MS:
            middle = (low + high) // 2 // SECOND_MS * SECOND_MS
            low, high = (middle, high) if self._offset_ms(middle) == before else (low, middle)
        return high


def parse_times(cron: str, every_ms: int, anchor_ms: int, timezone: str) -> Times:
    """The times of `cron`, or of `every_ms` where that is not 0. Raises TimesError."""
    if bool(cron) == bool(every_ms):
        raise TimesError("exactly one of cron and every is needed")
    if cron.startswith(_EVERY):
        every_ms = parse_span(cron.removeprefix(_EVERY))
        cron = ""
    if not cron:
        if not EVERY_MS_MIN <= every_ms <= EVERY_MS_MAX:
            raise TimesError("an interval is within 100 ms to 365 d")
        return IntervalTimes(every_ms, anchor_ms)
    return _cron(cron, parse_zone(timezone))


def parse_zone(name: str) -> tzinfo:
    """A time zone by its name; "" is UTC. Raises TimesError."""
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise TimesError(f'there is no time zone "{name}"') from error


def parse_span(text: str) -> int:
    """Milliseconds of "90s", "1h30m", "500ms", "1d". Raises TimesError."""
    total, number = 0, ""
    rest = text.strip()
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        number, rest = rest[:digits], rest[digits:]
        name = "ms" if rest.startswith("ms") else rest[:1]
        if not 1 <= len(number) <= 12 or name not in _UNITS:
            raise TimesError(f'"{text}" is no time such as 90s, 1h30m or 500ms')
        total += int(number) * _UNITS[name]
        rest = rest[len(name) :]
    if not total:
        raise TimesError(f'"{text}" is no time such as 90s, 1h30m or 500ms')
    return total


def lag_ms(name: str, fire_ms: int, next_ms: int | None, jitter_ms: int) -> int:
    """How late a run is on purpose: the same on every scheduler, and never past the next run."""
    room = jitter_ms if next_ms is None else min(jitter_ms, next_ms - fire_ms)
    if room <= 0:
        return 0
    digest = hashlib.sha256(f"{name}/{fire_ms}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % room


def _cron(text: str, zone: tzinfo) -> CronTimes:
    expression = _ALIASES.get(text.lower(), text)
    fields = len(expression.split())
    if len(text) > EXPRESSION_MAX:
        raise TimesError(f"has {len(text)} characters; at most {EXPRESSION_MAX}")
    if fields != 5:
        hint = "; for seconds use every" if fields == 6 else ""
        raise TimesError(f'"{text}" has {fields} fields, not 5 or @daily and the like{hint}')
    try:
        CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, TypeError, ValueError, IndexError) as error:
        raise TimesError(f'"{text}" is no cron expression: {error}') from error
    times = CronTimes(expression, zone)
    if times.after(0) is None:
        raise TimesError(f'"{text}" never comes')
    return times


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * SECOND_MS


def _exists(moment: datetime) -> bool:
    """Whether the clocks show it at all."""
    back = moment.astimezone(UTC).astimezone(moment.tzinfo)
    return back.replace(tzinfo=None) == moment.replace(tzinfo=None)
