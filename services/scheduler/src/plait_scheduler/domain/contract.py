"""A contract as the decisions need it: services, methods, messages and the policies written on
them.

Read from descriptors elsewhere; nothing here knows how they are encoded.
"""

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Kind(enum.Enum):
    """The type of a field."""

    DOUBLE = "double"
    FLOAT = "float"
    INT32 = "int32"
    INT64 = "int64"
    UINT32 = "uint32"
    UINT64 = "uint64"
    SINT32 = "sint32"
    SINT64 = "sint64"
    FIXED32 = "fixed32"
    FIXED64 = "fixed64"
    SFIXED32 = "sfixed32"
    SFIXED64 = "sfixed64"
    BOOL = "bool"
    STRING = "string"
    BYTES = "bytes"
    ENUM = "enum"
    MESSAGE = "message"
    GROUP = "group"


_NESTED = frozenset({Kind.MESSAGE, Kind.GROUP})


class Span(NamedTuple):
    """A duration as it was written, not yet checked."""

    seconds: int
    nanos: int


PolicyValue = bool | int | float | str | Span | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PolicyOption:
    """What one option sets: "retry.max_attempts" and the like. A message that is set stands for
    itself as True.
    """

    values: Mapping[str, PolicyValue]
    # Fields that this program does not know, by path and number: "retry.17".
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldShape:
    """A field of a message."""

    name: str
    number: int
    kind: Kind
    repeated: bool = False
    # Full name of the message or enum.
    type_name: str = ""
    # A default of its own, other than the one of its type: proto2 and editions only.
    has_default: bool = False
    # Whether it is a map; then it is repeated, and its message is the entry.
    is_map: bool = False
    # Its name in JSON; "": its name.
    json_name: str = ""
    # The oneof that it is in, without those of proto3's `optional`; "": none.
    oneof: str = ""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Numbers and names that nothing may use again."""

    # First and last, both reserved.
    numbers: tuple[tuple[int, int], ...] = ()
    # Sorted.
    names: tuple[str, ...] = ()

    def number(self, number: int) -> bool:
        """Whether the number is reserved."""
        return any(first <= number <= last for first, last in self.numbers)


@dataclass(frozen=True, slots=True)
class MessageShape:
    """A message."""

    name: str
    fields: tuple[FieldShape, ...] = ()
    reserved: Reserved = Reserved()

    def field(self, name: str) -> FieldShape | None:
        """The field of that name."""
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True, slots=True)
class EnumShape:
    """An enum."""

    name: str
    # Names and numbers, in the order of declaration. Aliases share a number.
    values: tuple[tuple[str, int], ...] = ()
    reserved: Reserved = Reserved()


@dataclass(frozen=True, slots=True)
class MethodShape:
    """A method."""

    name: str
    request: str
    response: str
    client_streaming: bool = False
    server_streaming: bool = False
    # What `option (plait.v1.task)` sets; None where it is not written.
    task: PolicyOption | None = None
    # Whether idempotency_level is IDEMPOTENT: it may be repeated, but has effects.
    declared_with_effects: bool = False
    # Options of ours that this program does not know.
    unknown_options: tuple[str, ...] = ()

    @property
    def streaming(self) -> bool:
        """Whether either side streams. Such a method is no task."""
        return self.client_streaming or self.server_streaming


@dataclass(frozen=True, slots=True)
class ServiceShape:
    """A service."""

    name: str
    # The file that declares it.
    file: str
    methods: tuple[MethodShape, ...]
    # What `option (plait.v1.task_defaults)` sets; None where it is not written.
    task_defaults: PolicyOption | None = None
    # Options of ours that this program does not know.
    unknown_options: tuple[str, ...] = ()

    def path(self, method: MethodShape) -> str:
        """The full path, "/package.Service/Method"."""
        return f"/{self.name}/{method.name}"


@dataclass(frozen=True, slots=True)
class Contract:
    """Services that were announced together, with every message they reach."""

    digest: str
    services: tuple[ServiceShape, ...]
    messages: Mapping[str, MessageShape] = field(default_factory=dict)
    enums: Mapping[str, EnumShape] = field(default_factory=dict)

    def reached(self, *names: str) -> dict[str, MessageShape]:
        """The messages of these names and all that they are made of, by name."""
        waiting = list(names)
        found: dict[str, MessageShape] = {}
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.messages:
                continue
            found[name] = self.messages[name]
            waiting += [f.type_name for f in found[name].fields if f.kind in _NESTED]
        return found

    def fingerprint(self, service: ServiceShape) -> str:
        """SHA-256 of what a service declares and reaches, in hexadecimal."""
        names = [name for method in service.methods for name in (method.request, method.response)]
        reached = self.reached(*names)
        used = {f.type_name for message in reached.values() for f in message.fields}
        enums = sorted((name, enum) for name, enum in self.enums.items() if name in used)
        text = repr((service, sorted(reached.items()), enums))
        return hashlib.sha256(text.encode()).hexdigest()

    def unary(self) -> Iterator[tuple[ServiceShape, MethodShape]]:
        """The methods that can be tasks."""
        for service in self.services:
            for method in service.methods:
                if not method.streaming:
                    yield service, method
