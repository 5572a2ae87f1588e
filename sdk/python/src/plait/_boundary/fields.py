"""One field of a message: what it may hold, and how that is written."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from plait._boundary import edges, wire
from plait._boundary.rules import EXTENSION, FieldRules
from plait._boundary.wire import Kind, Scalar

_GROUP = 10


@dataclass(frozen=True, slots=True)
class Value:
    """One thing that a field is set to."""

    label: str
    """Its name, such as "int32 max"."""
    content: bytes
    """The field with it, tags and all."""
    breaks: str = ""
    """The rule that it breaks."""


class Field:
    """A field of a message type."""

    def __init__(self, said: FieldDescriptor, proto: descriptor_pb2.FieldDescriptorProto) -> None:
        self._said = said
        self.number: int = said.number
        self.full_name: str = said.full_name
        self.repeated: bool = said.is_repeated
        entry = said.message_type if said.message_type is not None else None
        self._is_map = entry is not None and entry.GetOptions().map_entry
        inner: FieldDescriptor = entry.fields_by_name["value"] if self._is_map and entry else said
        self._key = wire.KINDS[entry.fields_by_name["key"].type] if self._is_map and entry else None
        self._kind = wire.KINDS.get(inner.type)
        # The type of the message, of the elements or of a map's values.
        self.message: Descriptor | None = inner.message_type
        self.special = False
        if self.message is not None:
            self.special = edges.of_message(self.message.full_name) is not None
        self._enum = _enum_of(inner)
        self.rules = FieldRules(_option(proto.options.SerializeToString()), self._enum or ())
        # Its oneof; "" for none, and for that of an optional field, which is none.
        arms = said.containing_oneof
        self.oneof: str = arms.name if arms is not None and not proto.proto3_optional else ""

    @property
    def needed(self) -> bool:
        """Whether a message without it breaks a rule, or cannot be read."""
        return bool(self.broken_when_unset()) or self._said.is_required

    @property
    def boundless(self) -> bool:
        """Whether it is a text or bytes that no rule bounds."""
        plain = self._kind is not None and self._kind.name in ("string", "bytes")
        return plain and not self._is_map and not self.rules.any

    def broken_when_unset(self) -> str:
        """The rule that a message without it breaks; "" for none."""
        if self.rules.required:
            return "required"
        if self.repeated:
            least, _ = self.rules.counts()
            return f"min {least}" if least else ""
        if self._said.has_presence or self._kind is None:
            return ""
        return self.rules.broken(self._kind, edges.zero(self._kind))

    def holding(self, content: bytes) -> bytes:
        """The field with one message."""
        if self._is_map:
            return self._entry(wire.delimited(2, content))
        if self._said.type == _GROUP:
            return wire.group(self.number, content)
        return wire.delimited(self.number, content)

    def many(self, count: int, content: bytes) -> bytes:
        """The field with so many ordinary values, or messages of this content."""
        if self._is_map:
            return b"".join(self._entry(self._ordinary(2, content), each) for each in range(count))
        return self._ordinary(self.number, content) * count

    def scalar_values(self) -> list[Value]:
        """Everything that is tried of a scalar field, of a list or of a map of scalars."""
        kind = self._kind
        assert kind is not None
        if not self.repeated:
            return [
                Value(
                    f"{kind.name} {label}",
                    wire.field(self.number, kind, value),
                    self._broken(value),
                )
                for label, value in self._edges(kind, self.rules)
            ]
        return self._map_values(kind) if self._is_map else self._list_values(kind)

    def special_values(self) -> list[Value]:
        """Those of a well-known type that is more than its fields."""
        assert self.message is not None
        short = self.message.name
        found = [
            Value(f"{short} {label}", self.holding(content), self._time_broken(nanos))
            for label, content, nanos in edges.of_message(self.message.full_name) or ()
        ]
        for label, nanos in self.rules.time_edges():
            content = edges.time_content(*_parts(nanos))
            found.append(Value(f"{short} {label}", self.holding(content), self._time_broken(nanos)))
        return found

    def _broken(self, value: Scalar) -> str:
        assert self._kind is not None
        if self.rules.required and not self._said.has_presence and not value:
            return "required"
        return self.rules.broken(self._kind, value)

    def _time_broken(self, nanos: int | None) -> str:
        return "" if nanos is None else self.rules.time_broken(nanos)

    def _edges(self, kind: Kind, rules: FieldRules) -> list[tuple[str, Scalar]]:
        if self._enum is not None:
            closed = self._said.enum_type is not None and self._said.enum_type.is_closed
            return [*edges.of_enum(self._enum, closed=closed), *rules.edges(kind)]
        found = [*edges.of_kind(kind), *rules.edges(kind)]
        return [*found, ("ordinary", self._good(kind, rules))] if rules.any else found

    def _list_values(self, kind: Kind) -> list[Value]:
        rules = self.rules.inner(4, self._enum or ())
        short = [
            (label, value)
            for label, value in self._edges(kind, rules)
            if len(wire.scalar(kind, value)) <= 4096
        ]
        found = [
            Value(
                f"one {kind.name} {label}",
                wire.field(self.number, kind, value),
                rules.broken(kind, value),
            )
            for label, value in (short[0], *rules.edges(kind))
        ]
        good = [value for _, value in short if not rules.broken(kind, value)]
        found.append(Value(f"every {kind.name}", self._list(kind, good, packed=False)))
        if kind.wire != wire.BYTES:
            found.append(Value(f"every {kind.name}, packed", self._list(kind, good, packed=True)))
        return found

    def _list(self, kind: Kind, values: Sequence[Scalar], *, packed: bool) -> bytes:
        if packed:
            data = b"".join(wire.scalar(kind, value) for value in values)
            return wire.delimited(self.number, data)
        return b"".join(wire.field(self.number, kind, value) for value in values)

    def _map_values(self, kind: Kind) -> list[Value]:
        assert self._key is not None
        keys, values = self.rules.inner(4), self.rules.inner(5, self._enum or ())
        short = [
            value
            for _, value in self._edges(kind, values)
            if len(wire.scalar(kind, value)) <= 4096 and not values.broken(kind, value)
        ]
        good = [
            (label, key)
            for label, key in edges.of_kind(self._key)
            if len(wire.scalar(self._key, key)) <= 4096 and not keys.broken(self._key, key)
        ]
        every = (
            b"".join(
                wire.delimited(
                    self.number,
                    wire.field(1, self._key, key) + wire.field(2, kind, short[at % len(short)]),
                )
                for at, (_, key) in enumerate(good)
            )
            if short
            else b""
        )
        zero = edges.zero(kind)
        empty = values.broken(kind, zero)
        bare = keys.broken(self._key, edges.zero(self._key)) or empty
        twice = self._entry(wire.field(2, kind, zero)) + self._entry(self._ordinary(2, b""))
        return [
            Value("an entry without key and value", wire.delimited(self.number, b""), bare),
            Value("one key twice", twice, empty),
            Value(f"every {self._key.name}", every),
        ]

    def _entry(self, value: bytes, number: int = 0) -> bytes:
        """One entry of a map, under a key that goes by the number."""
        assert self._key is not None
        key: Scalar = number % 2 == 1 if self._key.name == "bool" else number
        if self._key.name == "string":
            key = f"k{number}"
        return wire.delimited(self.number, wire.field(1, self._key, key) + value)

    def _ordinary(self, number: int, content: bytes) -> bytes:
        """One ordinary value, or a message of this content, under a number."""
        kind = self._kind
        if kind is None:
            if self.special and self.message is not None and self.message.name != "Any":
                content = edges.time_content(*_parts(self.rules.good_time()))
            if self._said.type == _GROUP:
                return wire.group(number, content)
            return wire.delimited(number, content)
        rules = self.rules
        if self.repeated:
            rules = rules.inner(5 if self._is_map else 4, self._enum or ())
        return wire.field(number, kind, self._good(kind, rules))

    def _good(self, kind: Kind, rules: FieldRules) -> Scalar:
        ordinary: list[Scalar] = [edges.typical(kind)]
        if self._enum is not None:
            ordinary = [each for each in sorted(self._enum) if each] or [0]
        return rules.good(kind, ordinary)


def _parts(nanos: int) -> tuple[int, int]:
    """Seconds and nanoseconds of one sign, as both a Timestamp after 1970 and a Duration are."""
    seconds, rest = divmod(abs(nanos), 1_000_000_000)
    return (seconds, rest) if nanos >= 0 else (-seconds, -rest)


def _enum_of(field: FieldDescriptor) -> dict[int, str] | None:
    if field.enum_type is None:
        return None
    names: dict[int, str] = {}
    for value in field.enum_type.values:
        names.setdefault(value.number, value.name)
    return names


def _option(options: bytes) -> bytes:
    """The buf.validate option among a descriptor's options; several pieces are one."""
    found = (value for number, value in wire.read(options) if number == EXTENSION)
    return b"".join(value for value in found if isinstance(value, bytes))


def _proto(kind: Descriptor) -> descriptor_pb2.DescriptorProto:
    made = descriptor_pb2.DescriptorProto()
    kind.CopyToProto(made)
    return made


@functools.lru_cache(maxsize=1024)
def fields_of(kind: Descriptor) -> tuple[Field, ...]:
    """The fields of a type, by number."""
    protos = {each.number: each for each in _proto(kind).field}
    fields = sorted(kind.fields, key=lambda each: each.number)
    return tuple(Field(each, protos[each.number]) for each in fields)


@functools.lru_cache(maxsize=1024)
def oneofs_of(kind: Descriptor) -> tuple[tuple[str, bool, tuple[Field, ...]], ...]:
    """The oneofs of a type: name, whether an arm is required, and the arms."""
    found = []
    for said in _proto(kind).oneof_decl:
        arms = tuple(each for each in fields_of(kind) if each.oneof == said.name)
        if arms:
            rules = dict(wire.read(_option(said.options.SerializeToString())))
            found.append((said.name, bool(rules.get(1)), arms))
    return tuple(found)
