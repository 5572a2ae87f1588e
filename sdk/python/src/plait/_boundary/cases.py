"""Boundary messages of a request: made from its descriptor, the same ones each time.

A field of each type that can be reached is set to each of its edge values, by the shortest way to
it; everything else is unset, or what protovalidate's rules ask for.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import Descriptor

from plait._boundary import edges, wire
from plait._boundary.fields import Field, Value, fields_of, oneofs_of

DEFAULT_LIMIT: Final = 1 << 20
"""The largest request, in bytes, where a broker does not say another one."""

_TYPES_MAX: Final = 200
_DEEP: Final = 32
_LAST_NUMBER: Final = (1 << 29) - 1


@dataclass(frozen=True, slots=True)
class Case:
    """One message that every worker is to answer alike."""

    name: str
    """What it is, such as "orders.v1.Order.amount = int32 max"; stable from run to run."""
    payload: bytes
    """The request."""
    breaks: str = ""
    """The rule that it breaks, whose answer is INVALID_ARGUMENT; "" for none that is known."""


def boundary_cases(request: Descriptor, limit: int = DEFAULT_LIMIT) -> list[Case]:
    """All of a request type. limit: bytes of the largest one."""
    return list(_Maker(request, limit).all())


def random_cases(request: Descriptor, seed: int, count: int) -> list[Case]:
    """So many more, whose fields have edge values by chance; equal seeds make equal ones."""
    maker, draw = _Maker(request, DEFAULT_LIMIT), random.Random(seed)
    made: list[Case] = []
    for number in range(1, count + 1):
        payload, breaks = maker.chance(request, draw, 3)
        made.append(Case(f"{request.full_name} = random {number} of seed {seed}", payload, breaks))
    return made


@dataclass(frozen=True)
class _Step:
    """A way into a message: the field of its parent that holds it."""

    parent: Descriptor
    field: Field


class _Maker:
    def __init__(self, request: Descriptor, limit: int) -> None:
        self._request = request
        self._limit = limit

    def all(self) -> Iterator[Case]:
        """Those of the whole message, then those of each type that is reached."""
        name = self._request.full_name
        yield Case(f"{name} = unset", b"", self._needed(self._request))
        yield Case(f"{name} = every field set", self._full(self._request, ()))
        for kind, way in self._types():
            yield from self._of_type(kind, way)
        yield self._largest()

    def chance(self, kind: Descriptor, draw: random.Random, depth: int) -> tuple[bytes, str]:
        """A message of randomly chosen values, and the first rule that it breaks."""
        payload, breaks = b"", ""
        arms: set[str] = set()
        for field in fields_of(kind):
            if not field.needed and (draw.random() < 0.5 or field.oneof in arms):
                continue
            if field.message is not None and not field.special and depth:
                inner, broken = self.chance(field.message, draw, depth - 1)
                payload, breaks = payload + field.holding(inner), breaks or broken
            else:
                chosen = draw.choice(self._values(field))
                # Long ones have cases of their own, and would not fit side by side.
                if len(chosen.content) > 4096:
                    chosen = Value("", self._filler(field, ()))
                payload, breaks = payload + chosen.content, breaks or chosen.breaks
            if field.oneof:
                arms.add(field.oneof)
        return payload, breaks

    def _types(self) -> Iterator[tuple[Descriptor, tuple[_Step, ...]]]:
        """The request and each message type below it, once, by the shortest way."""
        queue: list[tuple[Descriptor, tuple[_Step, ...]]] = [(self._request, ())]
        seen = {self._request.full_name}
        while queue:
            kind, way = queue.pop(0)
            yield kind, way
            for field in fields_of(kind):
                inner = field.message
                if inner is None or field.special or inner.full_name in seen:
                    continue
                if len(seen) < _TYPES_MAX:
                    seen.add(inner.full_name)
                    queue.append((inner, (*way, _Step(kind, field))))

    def _of_type(self, kind: Descriptor, way: Sequence[_Step]) -> Iterator[Case]:
        for field in fields_of(kind):
            base = self._base(kind, field)
            if field.needed:
                broken = field.broken_when_unset()
                yield Case(f"{field.full_name} = unset", self._wrap(way, base), broken)
            for value in self._values(field):
                payload = self._wrap(way, base + value.content)
                if len(payload) <= self._limit:
                    yield Case(f"{field.full_name} = {value.label}", payload, value.breaks)
            if field.message is kind:
                yield self._deep(kind, field, way)
        for name, required, arms in oneofs_of(kind):
            base = self._base(kind, arms[0])
            if required:
                broken = "oneof required"
                yield Case(f"{kind.full_name}.{name} = no arm", self._wrap(way, base), broken)
            if len(arms) > 1:
                both = self._filler(arms[0], ()) + self._filler(arms[-1], ())
                full = self._wrap(way, base + both)
                yield Case(f"{kind.full_name}.{name} = first arm, then last", full)
        if not kind.file.name.startswith("google/protobuf/"):
            unknown = self._base(kind, None) + _unknown(kind)
            yield Case(f"{kind.full_name} = unknown fields", self._wrap(way, unknown))

    def _deep(self, kind: Descriptor, field: Field, way: Sequence[_Step]) -> Case:
        content = self._base(kind, None)
        for _ in range(_DEEP):
            content = self._base(kind, field) + field.holding(content)
        return Case(f"{field.full_name} = {_DEEP} deep", self._wrap(way, content))

    def _largest(self) -> Case:
        """As large as a request may be, by a text or bytes that no rule bounds, else by a field
        that nobody knows."""
        request = self._request
        number, base = _LAST_NUMBER - 9, self._base(request, None)
        for field in fields_of(request):
            if field.boundless:
                number, base = field.number, self._base(request, field)
                break
        room = self._limit - len(base) - len(wire.tag(number, wire.BYTES))
        size = max(0, room - len(wire.varint(room)))
        while len(wire.varint(size + 1)) + size + 1 <= room:
            size += 1
        payload = base + wire.delimited(number, b"x" * size)
        return Case(f"{request.full_name} = {len(payload)} bytes", payload)

    def _wrap(self, way: Sequence[_Step], content: bytes) -> bytes:
        for step in reversed(way):
            content = self._base(step.parent, step.field) + step.field.holding(content)
        return content

    def _values(self, field: Field) -> list[Value]:
        """Everything that is tried of a field, itself only."""
        found = field.scalar_values() if field.message is None else self._message_values(field)
        if not field.repeated:
            return found
        least, most = field.rules.counts()
        for label, size in (("at least", least), ("at most", most)):
            if size:
                broken = [f"min {size}", ""] if label == "at least" else ["", f"max {size}"]
                for more, breaks in ((-1, broken[0]), (0, ""), (1, broken[1])):
                    many = field.many(size + more, self._inner(field, ()))
                    found.append(Value(f"{size + more} of {label} {size}", many, breaks))
        if not most or most >= 1000:
            found.append(Value("1000 of them", field.many(1000, self._inner(field, ()))))
        return found

    def _message_values(self, field: Field) -> list[Value]:
        if field.special:
            return field.special_values()
        assert field.message is not None
        return [Value("empty", field.holding(b""), self._needed(field.message))]

    def _base(self, kind: Descriptor, without: Field | None) -> bytes:
        """What rules ask for, beside one field and its oneof."""
        return b"".join(
            self._filler(field, (kind.full_name,))
            for field in _needs(kind)
            if without is None
            or (
                field.number != without.number and (not field.oneof or field.oneof != without.oneof)
            )
        )

    def _needed(self, kind: Descriptor) -> str:
        """The rule that an empty message breaks."""
        for field in _needs(kind):
            if field.needed and field.broken_when_unset():
                return field.broken_when_unset()
        required = any(required for _, required, _ in oneofs_of(kind))
        return "oneof required" if required else ""

    def _full(self, kind: Descriptor, above: tuple[str, ...]) -> bytes:
        """Every field set, one arm of each oneof; a type within itself is empty."""
        above = (*above, kind.full_name)
        last = {field.oneof: field.number for field in fields_of(kind) if field.oneof}
        return b"".join(
            self._filler(field, above, full=True)
            for field in fields_of(kind)
            if last.get(field.oneof, field.number) == field.number
        )

    def _filler(self, field: Field, above: tuple[str, ...], *, full: bool = False) -> bytes:
        """The field with an ordinary value that its rules allow."""
        least, _ = field.rules.counts()
        return field.many(max(1, least), self._inner(field, above, full=full))

    def _inner(self, field: Field, above: tuple[str, ...], *, full: bool = False) -> bytes:
        """The content of a message field; of others, nothing."""
        kind = field.message
        if kind is None or field.special:
            return b""
        if kind.full_name in above:
            return b""
        if full:
            return self._full(kind, above)
        return b"".join(self._filler(each, (*above, kind.full_name)) for each in _needs(kind))


def _needs(kind: Descriptor) -> list[Field]:
    """The fields without which a message breaks a rule; of a oneof that is required, the first."""
    wanted = {arms[0].number for _, required, arms in oneofs_of(kind) if required}
    return [each for each in fields_of(kind) if each.needed or each.number in wanted]


def _unknown(kind: Descriptor) -> bytes:
    """Fields that a newer contract might have."""
    taken = {each.number for each in kind.fields}
    first = _LAST_NUMBER
    while taken & set(range(first - 3, first + 1)):
        first -= 4
    return edges.unknown_fields(first)
