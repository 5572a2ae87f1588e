"""Changes of messages and enums, by what reads them: bytes in flight, and JSON, which the command
line, the gateway and the tools for dead letters speak.

What may be added: messages, fields, values. What goes must stay reserved, number and name, so that
nothing else can take its place.
"""

from collections.abc import Iterator

from plait_scheduler.domain.change import Change, Effect
from plait_scheduler.domain.contract import (
    Contract,
    EnumShape,
    FieldShape,
    Kind,
    MessageShape,
    Reserved,
)

# Kinds of one group are read from one another's bytes without loss of the values that both have.
_BYTES = (
    frozenset({Kind.INT32, Kind.INT64, Kind.UINT32, Kind.UINT64, Kind.BOOL, Kind.ENUM}),
    frozenset({Kind.SINT32, Kind.SINT64}),
    frozenset({Kind.FIXED32, Kind.SFIXED32}),
    frozenset({Kind.FIXED64, Kind.SFIXED64}),
    frozenset({Kind.STRING, Kind.BYTES}),
)
# Kinds of one group are read from one another's JSON.
_JSON = (
    frozenset({Kind.INT32, Kind.INT64, Kind.UINT32, Kind.UINT64}),
    *_BYTES[1:4],
)
NEW_NUMBER = "leave the field as it was and add another one under a new number"
OLD_NAME = "keep the old name, in JSON by json_name"
RESERVE = "reserve its number and its name, or keep it and mark it deprecated"


def message_changes(old: Contract, new: Contract, name: str) -> Iterator[Change]:
    """Changes of one message that both have, and of the enums that it uses."""
    before, after = old.messages[name], new.messages[name]
    by_number = {field.number: field for field in after.fields}
    for field in before.fields:
        now = by_number.pop(field.number, None)
        if now is None:
            yield _gone(before, after, field)
            continue
        yield from _field(before, after, field, now)
        if field.kind is now.kind is Kind.ENUM:
            yield from _values(old.enums.get(field.type_name), new.enums.get(now.type_name))
    for added in by_number.values():
        subject = f"{name}.{added.name}"
        yield Change("FIELD_ADDED", subject, f"field {added.number} is new")


def _field(
    before: MessageShape, after: MessageShape, old: FieldShape, new: FieldShape
) -> Iterator[Change]:
    """Changes of a field that both have."""
    subject = f"{before.name}.{old.name}"
    was = f"field {old.number} was"
    if not _same_bytes(old, new):
        text = f"{was} {_type(old)} and is {_type(new)} now"
        yield Change("FIELD_TYPE_CHANGED", subject, text, Effect.REFUSED, NEW_NUMBER)
    elif old.repeated != new.repeated:
        text = f"{was} {_label(old)} and is {_label(new)} now"
        yield Change("FIELD_CARDINALITY_CHANGED", subject, text, Effect.REFUSED, NEW_NUMBER)
    elif not _same_json(old, new):
        text = f"{was} {_type(old)} in JSON and is {_type(new)} now"
        yield _reversible("FIELD_JSON_TYPE_CHANGED", subject, text, NEW_NUMBER)
    elif old.kind is not new.kind:
        text = f"{was} {_type(old)} and is {_type(new)} now; bytes and JSON are read as before"
        yield Change("FIELD_KIND_CHANGED", subject, text)
    if bool(old.oneof) != bool(new.oneof) or _mates(before, after, old) != _mates(
        after, before, new
    ):
        text = f"{was} {_place(old)} and is {_place(new)} now: which field is set may change"
        yield _reversible("FIELD_ONEOF_CHANGED", subject, text, NEW_NUMBER)
    if old.name != new.name:
        text = f'{was} "{old.name}" and is "{new.name}" now, which JSON and key paths do not find'
        yield _reversible("FIELD_RENAMED", subject, text, OLD_NAME)
    elif _json(old) != _json(new):
        text = f'{was} "{_json(old)}" in JSON and is "{_json(new)}" now'
        yield _reversible("FIELD_JSON_NAME_CHANGED", subject, text, OLD_NAME)


def _gone(before: MessageShape, after: MessageShape, field: FieldShape) -> Change:
    subject = f"{before.name}.{field.name}"
    return _removed("FIELD_REMOVED", subject, field.name, field.number, after.reserved)


def _values(old: EnumShape | None, new: EnumShape | None) -> Iterator[Change]:
    """Changes of the values of an enum."""
    if old is None or new is None:
        return
    names: dict[int, set[str]] = {}
    for name, number in new.values:
        names.setdefault(number, set()).add(name)
    for name, number in old.values:
        subject = f"{old.name}.{name}"
        if number not in names:
            yield _removed("ENUM_VALUE_REMOVED", subject, name, number, new.reserved)
        elif name not in names[number]:
            now = ", ".join(sorted(names[number]))
            text = f'value {number} was "{name}" and is "{now}" now, which JSON does not find'
            advice = "keep the old name, as an alias if need be"
            yield _reversible("ENUM_VALUE_RENAMED", subject, text, advice)
    known = {number for _, number in old.values}
    for name, number in new.values:
        if number not in known:
            subject = f"{new.name}.{name}"
            yield Change("ENUM_VALUE_ADDED", subject, f"value {number} is new")


def _removed(kind: str, subject: str, name: str, number: int, reserved: Reserved) -> Change:
    """Something with a number and a name is gone."""
    free = []
    if not reserved.number(number):
        free.append(f"its number {number}")
    if name not in reserved.names:
        free.append(f'its name "{name}"')
    if free:
        text = f"is gone, and something else may take {' and '.join(free)}"
        return _reversible(kind, subject, text, RESERVE)
    return Change(kind, subject, f"is gone; its number {number} and its name stay reserved")


def _reversible(kind: str, subject: str, text: str, advice: str) -> Change:
    return Change(kind, subject, text, Effect.REFUSED, advice, reversible=True)


def _same_bytes(old: FieldShape, new: FieldShape) -> bool:
    if old.kind is new.kind:
        return old.kind not in (Kind.MESSAGE, Kind.GROUP) or old.type_name == new.type_name
    return any(old.kind in group and new.kind in group for group in _BYTES)


def _same_json(old: FieldShape, new: FieldShape) -> bool:
    return old.kind is new.kind or any(old.kind in g and new.kind in g for g in _JSON)


def _mates(message: MessageShape, other: MessageShape, field: FieldShape) -> set[int]:
    """The numbers that share the field's oneof, of those that are in some oneof of both messages:
    one that moved in or out is told for itself. What a oneof is called does not matter.
    """
    if not field.oneof:
        return set()
    elsewhere = {each.number for each in other.fields if each.oneof}
    return {each.number for each in message.fields if each.oneof == field.oneof} & elsewhere


def _json(field: FieldShape) -> str:
    return field.json_name or field.name


def _place(field: FieldShape) -> str:
    return f'in the oneof "{field.oneof}"' if field.oneof else "in no oneof"


def _type(field: FieldShape) -> str:
    named = field.kind in (Kind.MESSAGE, Kind.GROUP, Kind.ENUM)
    return f"{field.kind.value} {field.type_name}" if named else field.kind.value


def _label(field: FieldShape) -> str:
    if field.is_map:
        return "a map"
    return "repeated" if field.repeated else "singular"
