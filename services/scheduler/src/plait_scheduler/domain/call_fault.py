"""Faults of direct calls, which an operator sets to see what becomes of them: calls of a method are
late, or fail, by a share and until a time. There is none without an end.
"""

import re
from dataclasses import dataclass

from plait_scheduler.domain import codes

DURATION_MS_MIN = 1_000
DURATION_MS_MAX = 24 * 3_600_000
DELAY_MS_MAX = 300_000
# What shares are of.
WHOLE = 1_000_000
NAME_MAX = 200
_METHOD = re.compile(r"/[A-Za-z_][\w.]{0,250}/[A-Za-z_]\w{0,250}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Abort:
    """Calls fail."""

    # A gRPC code, not OK.
    code: int
    # Of a million calls.
    share: int


@dataclass(frozen=True, slots=True)
class Delay:
    """Calls are late."""

    delay_ms: int
    # Of a million calls.
    share: int


@dataclass(frozen=True, slots=True)
class CallFault:
    """What becomes of direct calls of a method."""

    # "/package.Service/Method".
    method: str
    abort: Abort | None
    delay: Delay | None
    set_ms: int
    # From then on it is over, whether or not anybody has noticed.
    end_ms: int
    # For people.
    set_by: str = ""

    def is_over(self, now_ms: int) -> bool:
        """Whether its time has come."""
        return now_ms >= self.end_ms


def check(fault: CallFault) -> list[tuple[str, str]]:
    """What is wrong with it: a field of the request, and why."""
    wrong = []
    if not _METHOD.fullmatch(fault.method):
        wrong.append(("method", 'is no full method path: write "/package.Service/Method"'))
    if fault.abort is None and fault.delay is None:
        wrong.append(("abort", "and delay are both unset: it does nothing"))
    if fault.abort is not None:
        if not codes.OK < fault.abort.code < len(codes.NAMES):
            wrong.append(("abort.code", "is no code of a failure"))
        wrong += _share("abort", fault.abort.share)
    if fault.delay is not None:
        if not 0 < fault.delay.delay_ms <= DELAY_MS_MAX:
            wrong.append(("delay.delay", "is not within 1 ms to 5 min"))
        wrong += _share("delay", fault.delay.share)
    if not DURATION_MS_MIN <= fault.end_ms - fault.set_ms <= DURATION_MS_MAX:
        wrong.append(("duration", "is not within 1 s to 24 h: every fault has an end"))
    if len(fault.set_by) > NAME_MAX:
        wrong.append(("set_by", f"has over {NAME_MAX} characters"))
    return wrong


def _share(field: str, share: int) -> list[tuple[str, str]]:
    if 0 < share <= WHOLE:
        return []
    return [(f"{field}.per_million", f"is not within 1 to {WHOLE}")]
