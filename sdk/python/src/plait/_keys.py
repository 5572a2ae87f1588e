"""Keys of a request: the text of the field that a policy names (docs/protocol.md §2).

A message of a known type is read by descriptor, which is fast. Bytes are read by field numbers, so
that a caller
without descriptors, or with a serializer of its own, gets the same text.
"""

import operator
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from plait.v1 import contract_service_pb2
from plait.v1.contract_service_pb2 import KeyPath

Extractor: TypeAlias = Callable[[Any], str]

_WIRE_VARINT: Final = 0
_WIRE_FIXED64: Final = 1
_WIRE_BYTES: Final = 2
_WIRE_GROUP: Final = 3
_WIRE_GROUP_END: Final = 4
_WIRE_FIXED32: Final = 5

_NESTING_MAX: Final = 100

# How a kind's values are on the wire; that of the others is a varint.
_WIRES: Final[dict[int, int]] = {
    contract_service_pb2.KEY_KIND_STRING: _WIRE_BYTES,
    contract_service_pb2.KEY_KIND_BYTES: _WIRE_BYTES,
    contract_service_pb2.KEY_KIND_FIXED32: _WIRE_FIXED32,
    contract_service_pb2.KEY_KIND_SFIXED32: _WIRE_FIXED32,
    contract_service_pb2.KEY_KIND_FIXED64: _WIRE_FIXED64,
    contract_service_pb2.KEY_KIND_SFIXED64: _WIRE_FIXED64,
}


def by_descriptor(path: KeyPath, descriptor: Descriptor) -> Extractor:
    """A function that takes a message of this type and answers its key, "" for none.

    Raises LookupError when the type has no such field, as when the program's contract is older than
    the broker's.
    """
    names: list[str] = []
    here: Descriptor | None = descriptor
    for number in path.numbers:
        field = here.fields_by_number.get(number) if here is not None else None
        if field is None:
            raise LookupError(f"{descriptor.full_name} has no field {path.path}")
        names.append(field.name)
        here = field.message_type
    read = operator.attrgetter(".".join(names))
    if path.kind == contract_service_pb2.KEY_KIND_STRING:
        return read
    if path.kind == contract_service_pb2.KEY_KIND_BYTES:
        return lambda message: str(read(message).hex())
    if path.kind == contract_service_pb2.KEY_KIND_BOOL:
        return lambda message: "true" if read(message) else "false"
    return lambda message: str(int(read(message)))


def by_numbers(path: KeyPath) -> Callable[[bytes], str]:
    """A function that takes a serialized message and answers its key, "" for none.

    The function raises DecodeError for bytes that are no message.
    """
    numbers = tuple(path.numbers)
    kind = path.kind
    wire = _WIRES.get(kind, _WIRE_VARINT)
    return lambda payload: _text(_find([memoryview(payload)], numbers, wire), kind)


def _find(parts: list[memoryview], numbers: tuple[int, ...], wire: int) -> bytes | int | None:
    """The last value of the field; `parts` are the occurrences of the message it is in, which
    merge."""
    number, rest = numbers[0], numbers[1:]
    tag = number << 3 | (_WIRE_BYTES if rest else wire)
    values = [value for part in parts for value in _values(part, tag)]
    if not rest:
        last = values[-1] if values else None
        return bytes(last) if isinstance(last, memoryview) else last
    inner = [value for value in values if isinstance(value, memoryview)]
    return _find(inner, rest, wire) if inner else None


def _values(data: memoryview, wanted: int) -> list[memoryview | int]:
    """Every occurrence of a field in a message, by its tag: under another wire type the field is
    unknown, as to any parser."""
    found: list[memoryview | int] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag >> 3 == 0:
            raise DecodeError(f"field number 0 before byte {at}")
        value, at = _value(data, at, tag, 0)
        if tag == wanted and value is not None:
            found.append(value)
    return found


def _value(data: memoryview, at: int, tag: int, depth: int) -> tuple[memoryview | int | None, int]:
    """One value and where the next field begins."""
    wire = tag & 7
    if wire == _WIRE_VARINT:
        return _varint(data, at)
    if wire in (_WIRE_FIXED64, _WIRE_FIXED32):
        size = 8 if wire == _WIRE_FIXED64 else 4
        return int.from_bytes(_slice(data, at, size), "little"), at + size
    if wire == _WIRE_BYTES:
        size, at = _varint(data, at)
        return _slice(data, at, size), at + size
    if wire == _WIRE_GROUP and depth < _NESTING_MAX:
        return None, _skip_group(data, at, tag >> 3, depth + 1)
    raise DecodeError(f"wire type {wire} at byte {at}")


def _skip_group(data: memoryview, at: int, number: int, depth: int) -> int:
    while True:
        tag, at = _varint(data, at)
        if tag & 7 == _WIRE_GROUP_END:
            if tag >> 3 != number:
                raise DecodeError(f"a group ends at byte {at} that did not begin")
            return at
        _, at = _value(data, at, tag, depth)


def _slice(data: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(data):
        raise DecodeError("the message is cut off")
    return data[at : at + size]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise DecodeError("the message is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise DecodeError("a number is too long")


_SIGNED_BITS: Final[dict[int, int]] = {
    contract_service_pb2.KEY_KIND_INT: 64,
    contract_service_pb2.KEY_KIND_SFIXED32: 32,
    contract_service_pb2.KEY_KIND_SFIXED64: 64,
}


def _text(value: bytes | int | None, kind: int) -> str:
    if kind == contract_service_pb2.KEY_KIND_STRING:
        return value.decode() if isinstance(value, bytes) else ""
    if kind == contract_service_pb2.KEY_KIND_BYTES:
        return value.hex() if isinstance(value, bytes) else ""
    number = value if isinstance(value, int) else 0
    if kind == contract_service_pb2.KEY_KIND_BOOL:
        return "true" if number else "false"
    if kind == contract_service_pb2.KEY_KIND_SINT:
        return str((number >> 1) ^ -(number & 1))
    bits = _SIGNED_BITS.get(kind)
    if bits is not None and number >= 1 << (bits - 1):
        number -= 1 << bits
    return str(number)
