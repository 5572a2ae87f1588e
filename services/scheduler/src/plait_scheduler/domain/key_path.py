"""Finding the field that a key path names, and why it cannot be a key."""

import difflib
from collections.abc import Mapping

from plait_scheduler.domain.contract import FieldShape, Kind, MessageShape
from plait_scheduler.domain.policy import KeyKind, KeyPath

# Deeper than any message a person writes; bounds what a submitter walks for each task.
DEPTH_MAX = 16

_KINDS = {
    Kind.STRING: KeyKind.STRING,
    Kind.BYTES: KeyKind.BYTES,
    Kind.INT32: KeyKind.INT,
    Kind.INT64: KeyKind.INT,
    Kind.ENUM: KeyKind.INT,
    Kind.UINT32: KeyKind.UINT,
    Kind.UINT64: KeyKind.UINT,
    Kind.SINT32: KeyKind.SINT,
    Kind.SINT64: KeyKind.SINT,
    Kind.BOOL: KeyKind.BOOL,
    Kind.FIXED32: KeyKind.FIXED32,
    Kind.FIXED64: KeyKind.FIXED64,
    Kind.SFIXED32: KeyKind.SFIXED32,
    Kind.SFIXED64: KeyKind.SFIXED64,
}


class KeyPathError(ValueError):
    """The path names no field that can be a key; the text says why."""


def resolve_key_path(path: str, request: str, messages: Mapping[str, MessageShape]) -> KeyPath:
    """Follows the path from the request message. Raises KeyPathError."""
    elements = path.split(".")
    if len(elements) > DEPTH_MAX:
        raise KeyPathError(f'"{path}" has {len(elements)} elements; at most {DEPTH_MAX}')
    if "" in elements:
        raise KeyPathError(f'"{path}" has an empty element')
    numbers: list[int] = []
    message = messages[request]
    for element in elements[:-1]:
        step = _field(path, message, element)
        if step.kind is not Kind.MESSAGE:
            what = f"a {step.kind.value}"
            raise KeyPathError(
                f'"{path}": {message.name}.{element} is {what}, no message to go into'
            )
        numbers.append(step.number)
        message = messages[step.type_name]
    last = _field(path, message, elements[-1])
    kind = _KINDS.get(last.kind)
    if kind is None:
        raise KeyPathError(
            f'"{path}": {message.name}.{last.name} is a {last.kind.value}; a key is a string, '
            "bytes, integer, bool or enum"
        )
    if last.has_default:
        raise KeyPathError(
            f'"{path}": {message.name}.{last.name} has a default of its own, which programs that '
            "read by field number do not know"
        )
    return KeyPath(path, (*numbers, last.number), kind)


def _field(path: str, message: MessageShape, name: str) -> FieldShape:
    """The singular field of that name."""
    found = message.field(name)
    if found is None:
        raise KeyPathError(f'"{path}": {message.name} has no field "{name}"{_hint(message, name)}')
    if found.repeated:
        what = "a map" if found.is_map else "repeated"
        raise KeyPathError(f'"{path}": {message.name}.{name} is {what}; a key needs one value')
    return found


def _hint(message: MessageShape, name: str) -> str:
    """What was meant, or what there is."""
    names = [f.name for f in message.fields]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    if not names:
        return "; it has no fields"
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; it has {listed}"
