"""The keys of a request, read from its bytes by field numbers (protocol §2)."""

from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from plait.v1 import contract_service_pb2 as contracts

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def text(path: contracts.KeyPath, payload: bytes) -> str:
    """The key's text, "" for no key. Raises DecodeError, UnicodeDecodeError."""
    *outer, last = path.numbers
    for number in outer:
        # Messages that are there more than once are one, and bytes of messages merge end to end.
        payload = b"".join(_values(payload, number, LENGTH))
    wire, spell, default = _KINDS[path.kind]
    found = _values(payload, last, wire)
    return spell(found[-1]) if found else default


def _values(message: bytes, number: int, wire: int) -> list[Any]:
    """A field's values as they are on the wire; one of another wire type is another field."""
    # A message without fields of its own holds every field as one that it does not know.
    fields: Any = UnknownFieldSet(Empty.FromString(message))
    if any(field.field_number == 0 for field in fields):
        raise DecodeError("no field has the number 0")  # which that library lets pass
    return [
        field.data for field in fields if field.field_number == number and field.wire_type == wire
    ]


def _utf8(value: bytes) -> str:
    return value.decode()


def _signed(bits: int) -> Callable[[int], str]:
    def spell(value: int) -> str:
        return str(value - (1 << bits) if value >> (bits - 1) else value)

    return spell


def _zigzag(value: int) -> str:
    return str((value >> 1) ^ -(value & 1))


def _bool(value: int) -> str:
    return "true" if value else "false"


_KINDS: dict[int, tuple[int, Callable[[Any], str], str]] = {
    contracts.KEY_KIND_STRING: (LENGTH, _utf8, ""),
    contracts.KEY_KIND_BYTES: (LENGTH, bytes.hex, ""),
    contracts.KEY_KIND_INT: (VARINT, _signed(64), "0"),
    contracts.KEY_KIND_UINT: (VARINT, str, "0"),
    contracts.KEY_KIND_SINT: (VARINT, _zigzag, "0"),
    contracts.KEY_KIND_BOOL: (VARINT, _bool, "false"),
    contracts.KEY_KIND_FIXED32: (FIXED32, str, "0"),
    contracts.KEY_KIND_FIXED64: (FIXED64, str, "0"),
    contracts.KEY_KIND_SFIXED32: (FIXED32, _signed(32), "0"),
    contracts.KEY_KIND_SFIXED64: (FIXED64, _signed(64), "0"),
}
