"""Times and spans as people write them."""

import re
from datetime import datetime, timedelta

from plait.cli._command import Exit, Stop

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(?:\d{1,12}(?:ms|[smhd]))+")


def moment_of(text: str) -> datetime:
    """A time with a zone: "2026-11-23T03:00:00Z". Stop where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Stop(Exit.USAGE, f'"{text}" is no time: write 2026-11-23T03:00:00Z') from error
    if moment.tzinfo is None:
        raise Stop(Exit.USAGE, f'"{text}" has no zone: write {text}Z, or +01:00 behind it')
    return moment


def span_of(text: str) -> timedelta:
    """A duration: "90s", "1h30m", "500ms". Stop where it is none, or longer than a century."""
    parts = re.findall(r"(\d+)(ms|[smhd])", text) if _SPAN.fullmatch(text) else []
    seconds = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not parts or seconds > 100 * 365 * _UNITS["d"]:
        raise Stop(Exit.USAGE, f'"{text}" is no span: write 90s, 1h30m, 500ms or 2d')
    return timedelta(seconds=seconds)
