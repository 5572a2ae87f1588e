"""Protobuf's encoding, written and read by hand.

Boundary messages say things that a library would tidy up: a default on the wire, two arms of a
oneof, a field that nobody knows. And they must be the same bytes in every language that makes them.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
GROUP: Final = 3
GROUP_END: Final = 4
FIXED32: Final = 5

Scalar: TypeAlias = int | float | bool | str | bytes
"""What a scalar field holds; an enum's number is an int."""


class Kind(NamedTuple):
    """A kind of scalar field."""

    name: str
    wire: int
    # Of the whole numbers; 0 for the others.
    bits: int = 0
    signed: bool = False
    zigzag: bool = False


KINDS: Final = {
    1: Kind("double", FIXED64),
    2: Kind("float", FIXED32),
    3: Kind("int64", VARINT, 64, signed=True),
    4: Kind("uint64", VARINT, 64),
    5: Kind("int32", VARINT, 32, signed=True),
    6: Kind("fixed64", FIXED64, 64),
    7: Kind("fixed32", FIXED32, 32),
    8: Kind("bool", VARINT),
    9: Kind("string", BYTES),
    12: Kind("bytes", BYTES),
    13: Kind("uint32", VARINT, 32),
    14: Kind("enum", VARINT, 32, signed=True),
    15: Kind("sfixed32", FIXED32, 32, signed=True),
    16: Kind("sfixed64", FIXED64, 64, signed=True),
    17: Kind("sint32", VARINT, 32, signed=True, zigzag=True),
    18: Kind("sint64", VARINT, 64, signed=True, zigzag=True),
}
"""By the number of FieldDescriptorProto.Type. Messages and groups are none."""


def varint(number: int) -> bytes:
    """A number of at most 64 bits; a negative one as its two's complement."""
    number &= 0xFFFF_FFFF_FFFF_FFFF
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def tag(number: int, wire: int) -> bytes:
    """What stands before a value."""
    return varint(number << 3 | wire)


def scalar(kind: Kind, value: Scalar) -> bytes:
    """A value without its tag; text and bytes with their length."""
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return varint(len(data)) + data
    if kind.name in ("double", "float"):
        return struct.pack("<d" if kind.name == "double" else "<f", value)
    number = int(value)
    if kind.wire == VARINT:
        return varint(number << 1 ^ number >> 63 if kind.zigzag else number)
    size = kind.bits // 8
    return number.to_bytes(size, "little", signed=kind.signed)


def field(number: int, kind: Kind, value: Scalar) -> bytes:
    """A value with its tag."""
    return tag(number, kind.wire) + scalar(kind, value)


def delimited(number: int, content: bytes) -> bytes:
    """Bytes, a text, a message or packed values, with tag and length."""
    return tag(number, BYTES) + varint(len(content)) + content


def group(number: int, content: bytes) -> bytes:
    """A message in the old encoding, between two tags."""
    return tag(number, GROUP) + content + tag(number, GROUP_END)


def read(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: numbers, and values as they stand there. No groups."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(wire, len(data))
        if at + size > len(data):
            raise DecodeError("the message is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def value_of(kind: Kind, found: int | bytes) -> Scalar:
    """A value as `read` gives it, as a field of this kind has it."""
    if isinstance(found, bytes):
        if kind.name in ("double", "float"):
            value: float = struct.unpack("<d" if kind.name == "double" else "<f", found)[0]
            return value
        if kind.bits:
            return int.from_bytes(found, "little", signed=kind.signed)
        return found.decode() if kind.name == "string" else found
    if kind.zigzag:
        return found >> 1 ^ -(found & 1)
    if kind.name == "bool":
        return bool(found)
    return found - (1 << 64) if kind.signed and found >= 1 << 63 else found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise DecodeError("the message is cut off")
