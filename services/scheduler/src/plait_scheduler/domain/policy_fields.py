"""The fields of one method's policy, merged and checked one by one.

A field that the method sets wins over its service's default, field by field; what neither sets is
left to the compiler. Every fault is collected, none is raised, so that a user sees all of them at
once.
"""

from dataclasses import dataclass, field

from plait_scheduler.domain.contract import MethodShape, PolicyValue, ServiceShape, Span
from plait_scheduler.domain.units import DAY_MS, format_ms
from plait_scheduler.domain.violation import Violation

DURATION_MS_MAX = 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be."""

    low: int
    high: int


@dataclass(slots=True)
class PolicyFields:
    """Reads one method's merged policy and collects what is wrong with it."""

    service: ServiceShape
    method: MethodShape
    violations: list[Violation] = field(default_factory=list)

    def refuse(self, path: str, description: str) -> None:
        """Notes a fault. A default that fits some methods only names the method all the same."""
        subject = f"{self.service.name}.{self.method.name}"
        self.violations.append(Violation(self.service.file, subject, self.name(path), description))

    def name(self, path: str) -> str:
        """The field as its writer knows it: "task.queue" or "task_defaults.queue"."""
        return f"{'task_defaults' if self._inherited(path) else 'task'}.{path}"

    def has(self, path: str) -> bool:
        """Whether the field is set."""
        return self._value(path) is not None

    def of_method(self, path: str) -> bool:
        """Whether the method itself sets the field."""
        return self.method.task is not None and path in self.method.task.values

    def text(self, path: str) -> str:
        """A string; "" where it is not set."""
        value = self._value(path)
        return value if isinstance(value, str) else ""

    def flag(self, path: str) -> bool:
        """A bool; false where it is not set."""
        return self._value(path) is True

    def codes(self, path: str) -> tuple[int, ...]:
        """A list of codes; empty where it is not set."""
        value = self._value(path)
        return value if isinstance(value, tuple) and not isinstance(value, Span) else ()

    def enum(self, path: str) -> int:
        """The number of an enum's value; 0 where it is not set."""
        value = self._value(path)
        return value if isinstance(value, int) else 0

    def integer(self, path: str, default: int, allowed: Range) -> int:
        """A whole number."""
        value = self._value(path)
        if value is None or not isinstance(value, int):
            return default
        if not allowed.low <= value <= allowed.high:
            self.refuse(path, f"{value} is not within {allowed.low} to {allowed.high}")
            return default
        return value

    def permille(self, path: str, default: int, allowed: Range) -> int:
        """A factor, kept in thousandths."""
        value = self._value(path)
        if value is None or not isinstance(value, int | float):
            return default
        # NaN is in no range, and the largest of floats overflow.
        scaled = round(value * 1000) if abs(value) < allowed.high else -1
        if not allowed.low <= scaled <= allowed.high:
            self.refuse(
                path, f"{value:g} is not within {allowed.low / 1000:g} to {allowed.high / 1000:g}"
            )
            return default
        return scaled

    def duration(self, path: str, default: int, low: int = 1, high: int = DURATION_MS_MAX) -> int:
        """A duration in milliseconds."""
        value = self._value(path)
        if not isinstance(value, Span):
            return default
        exact = _milliseconds(value)
        if exact is None:
            self.refuse(path, "is no duration of whole milliseconds")
            return default
        if not low <= exact <= high:
            self.refuse(
                path, f"{format_ms(exact)} is not within {format_ms(low)} to {format_ms(high)}"
            )
            return default
        return exact

    def _value(self, path: str) -> PolicyValue | None:
        if self.method.task is not None and path in self.method.task.values:
            return self.method.task.values[path]
        if self.service.task_defaults is not None:
            return self.service.task_defaults.values.get(path)
        return None

    def _inherited(self, path: str) -> bool:
        """Whether the field's value is the service's. What nobody sets counts as the method's."""
        return not self.of_method(path) and self.has(path)


def _milliseconds(span: Span) -> int | None:
    """None: nanos out of range, of another sign than seconds, or a part of a millisecond."""
    if abs(span.nanos) > 999_999_999 or span.seconds * span.nanos < 0 or span.nanos % 1_000_000:
        return None
    return span.seconds * 1000 + span.nanos // 1_000_000
