"""Cron by another way: minute after minute, each asked whether it is one. For tests of the times of
schedules, with which it shares nothing.
"""

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Field:
    """A field of an expression, and the numbers that it stands for."""

    text: str
    numbers: frozenset[int]

    @property
    def star(self) -> bool:
        return self.text.startswith("*")


@dataclass(frozen=True)
class Expression:
    """Five fields."""

    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    @property
    def text(self) -> str:
        fields = (self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(each.text for each in fields)

    def shows(self, local: datetime) -> bool:
        """Whether a clock that shows this is at one of its times."""
        if local.minute not in self.minute.numbers or local.hour not in self.hour.numbers:
            return False
        if local.month not in self.month.numbers:
            return False
        day = local.day in self.day.numbers
        # Sunday is 0 and 7.
        week = calendar.weekday(local.year, local.month, local.day) + 1
        weekday = bool({week, week % 7} & self.weekday.numbers)
        if self.day.star or self.weekday.star:
            return day and weekday
        return day or weekday

    def between(self, after: datetime, until: datetime, zone: ZoneInfo) -> list[datetime]:
        """Its times within (after, until], in UTC, by the rules of Debian's cron."""
        found = []
        # What the clock showed a minute before, to see when it leaps.
        before = _shown(after, zone)
        moment = after
        while (moment := moment + MINUTE) <= until:
            local = _shown(moment, zone)
            if self.minute.star or self.hour.star:
                due = self.shows(local)
            else:
                again = moment.astimezone(zone).fold == 1
                due = (not again and self.shows(local)) or self._leapt(before, local)
            if due:
                found.append(moment)
            before = local
        return found

    def _leapt(self, before: datetime, local: datetime) -> bool:
        """Whether one of its times was leapt over."""
        missing = before + MINUTE
        while missing < local:
            if self.shows(missing):
                return True
            missing += MINUTE
        return False


def _shown(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def changes_of_clocks(zone: ZoneInfo, first_year: int, last_year: int) -> list[datetime]:
    """Days, in UTC, on which the zone's offset changes."""
    found = []
    day = datetime(first_year, 1, 1, tzinfo=UTC)
    while day.year <= last_year:
        following = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            found.append(day)
        day = following
    return found
