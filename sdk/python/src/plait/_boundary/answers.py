"""What workers answered, and in what answers differ."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import unknown_fields
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

UNKNOWN: Final = "?"
"""Stands for unknown fields where fields to ignore are named, and in their paths."""

_SHOWN_MAX: Final = 60
_TIME_IS_UP: Final = frozenset({"", "TASK_EXPIRED", "ATTEMPT_TIMED_OUT"})


@dataclass(frozen=True, slots=True)
class Answer:
    """How one worker answered one message."""

    code: int = 0
    """The gRPC code."""
    reason: str = ""
    """The reason of its ErrorInfo, as "domain/REASON"; Plait's own without the domain."""
    message: str = ""
    """For people; not compared, since languages word things differently."""
    response: bytes = b""
    """The serialized response."""
    took: float = 0.0
    """Seconds from its start to its end, by the broker's clock."""

    @property
    def expired(self) -> bool:
        """Whether time was up: the broker or the worker, whoever is first, says so."""
        late = self.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        return late and self.reason in _TIME_IS_UP

    def facts(self, kind: type[Message], ignore: Sequence[str]) -> dict[str, Any]:
        """What is compared: the leaves of the response by path, or the error."""
        if self.expired:
            return {"code": "DEADLINE_EXCEEDED"}
        if self.code:
            return {"code": code_name(self.code), "reason": self.reason}
        try:
            found = dict(_leaves(kind.FromString(self.response), ""))
        except DecodeError:
            return {"code": "OK", "response": self.response.hex()}
        kept = {path: each for path, each in found.items() if not _ignored(path, ignore)}
        return {"code": "OK", **kept}

    def text(self) -> str:
        """For people, short."""
        if self.expired:
            return "DEADLINE_EXCEEDED"
        if not self.code:
            return "OK"
        reason = f" ({self.reason})" if self.reason else ""
        message = f": {shown(self.message)}" if self.message else ""
        return f"{code_name(self.code)}{reason}{message}"


def of_error(status: status_pb2.Status, took: float) -> Answer:
    """The answer that is an error."""
    reason = ""
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            reason = info.reason if info.domain == "plait" else f"{info.domain}/{info.reason}"
            break
    return Answer(status.code, reason, status.message, took=took)


def code_name(number: int) -> str:
    """ "INVALID_ARGUMENT"; a number that is no code is itself."""
    return next((each.name for each in grpc.StatusCode if each.value[0] == number), str(number))


def differences(
    one: dict[str, Any], other: dict[str, Any], most: int = 3
) -> list[tuple[str, str, str]]:
    """Paths with what either says there, the first few."""
    if one.get("code") != "OK" or other.get("code") != "OK":
        return []
    paths = [path for path in {**one, **other} if one.get(path) != other.get(path)]
    return [(path, shown(one.get(path)), shown(other.get(path))) for path in paths[:most]]


def shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    if value is None:
        return "unset"
    text = value if isinstance(value, str) and value.startswith("{") else repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}… ({len(text)})"


def _ignored(path: str, ignore: Sequence[str]) -> bool:
    """Whether a path is, or is below, a field that may differ; elements go by the field."""
    names = [part.partition("[")[0] for part in path.split(".")]
    for each in ignore:
        if each == UNKNOWN:
            if any(name.startswith(UNKNOWN) for name in names):
                return True
        elif names[: each.count(".") + 1] == each.split("."):
            return True
    return False


def _leaves(message: Message, path: str) -> Iterator[tuple[str, Any]]:
    """Everything that is set, by its path; unknown fields by their number."""
    fields = message.ListFields()
    if not fields and path:
        yield path, "{}"
    for field, value in fields:
        yield from _field(field, value, f"{path}.{field.name}" if path else field.name)
    for number, each in _unknown(message).items():
        yield (f"{path}.{UNKNOWN}{number}" if path else f"{UNKNOWN}{number}"), each


def _field(field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        for key in sorted(value):
            yield from _one(inner, value[key], f"{path}[{key!r}]")
    elif field.is_repeated:
        for index, each in enumerate(value):
            yield from _one(field, each, f"{path}[{index}]")
    else:
        yield from _one(field, value, path)


def _one(field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if field.message_type is not None:
        yield from _leaves(value, path) if _is_set(value) else [(path, "{}")]
    elif isinstance(value, float):
        # One NaN is as good as another, and -0.0 is equal to 0.0, as to protobuf's own equality.
        if value == 0.0 and not field.is_repeated and not field.has_presence:
            return
        yield path, "NaN" if value != value else value + 0.0
    else:
        yield path, value


def _is_set(message: Message) -> bool:
    return bool(message.ListFields()) or bool(_unknown(message))


def _unknown(message: Message) -> dict[int, tuple[Any, ...]]:
    found: dict[int, list[Any]] = {}
    known = unknown_fields.UnknownFieldSet(message)
    # Its stubs know len and indices only.
    for each in (known[index] for index in range(len(known))):
        data = each.data
        if not isinstance(data, int | bytes):
            data = struct.pack("<q", len(data))
        found.setdefault(each.field_number, []).append((each.wire_type, data))
    return {number: tuple(values) for number, values in sorted(found.items())}
