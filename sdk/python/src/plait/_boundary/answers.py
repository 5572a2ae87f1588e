"""What workers answered, and in what answers differ."""

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import unknown_fields
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

UNKNOWN: Final = "?"
"""Stands for unknown fields where fields to ignore are named, and in their paths."""

CODE: Final = ""
"""Under which facts hold the code; no field has that path."""

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

    def facts(self, kind: type[Message], ignore: Collection[str]) -> dict[str, Any]:
        """What is compared: the leaves of the response by path, or the error."""
        if self.expired:
            return {CODE: "DEADLINE_EXCEEDED"}
        if self.code:
            return {CODE: code_name(self.code), "reason": self.reason}
        try:
            response = kind.FromString(self.response)
        except DecodeError:
            return {CODE: "OK", "bytes": self.response.hex()}
        leaves = _Leaves(ignore)
        leaves.message(response, "", "")
        return {CODE: "OK", **leaves.found}

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
    if one[CODE] != "OK" or other[CODE] != "OK":
        return []
    paths = [path for path in {**one, **other} if one.get(path) != other.get(path)]
    return [(path, shown(one.get(path)), shown(other.get(path))) for path in paths[:most]]


def shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    if value is None:
        return "unset"
    text = value if isinstance(value, str) and value.startswith("{") else repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}… ({len(text)})"


class _Leaves:
    """What a message says, leaf by leaf."""

    def __init__(self, ignore: Collection[str]) -> None:
        self._ignore = ignore
        self.found: dict[str, Any] = {}

    def message(self, message: Message, path: str, names: str) -> None:
        """Everything that is set. path: such as "lines[3].id"; names: without elements."""
        if path:
            self.found[path] = "{}"
        for field, value in message.ListFields():
            below = f"{names}.{field.name}" if names else field.name
            if below not in self._ignore:
                self._field(field, value, f"{path}.{field.name}" if path else field.name, below)
        if UNKNOWN not in self._ignore:
            for number, each in _unknown(message).items():
                self.found[f"{path}.{UNKNOWN}{number}" if path else f"{UNKNOWN}{number}"] = each

    def _field(self, field: FieldDescriptor, value: Any, path: str, names: str) -> None:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inner = kind.fields_by_name["value"]
            for key in sorted(value):
                self._one(inner, value[key], f"{path}[{key!r}]", names)
        elif field.is_repeated:
            for index, each in enumerate(value):
                self._one(field, each, f"{path}[{index}]", names)
        # -0.0 is equal to 0.0, as to protobuf's own equality, so it counts as unset.
        elif field.has_presence or not isinstance(value, float) or value != 0.0:
            self._one(field, value, path, names)

    def _one(self, field: FieldDescriptor, value: Any, path: str, names: str) -> None:
        if field.message_type is not None:
            self.message(value, path, names)
        elif isinstance(value, float):
            # One NaN is as good as another.
            self.found[path] = "NaN" if math.isnan(value) else value + 0.0
        else:
            self.found[path] = value


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
