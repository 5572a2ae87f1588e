"""Values at the edges of each kind of field, with the names by which cases are known."""

import struct
from typing import Final

from plait._boundary.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Kind,
    Scalar,
    delimited,
    tag,
    varint,
)

LONG: Final = 65_536
"""Bytes of a long text: more than any buffer on its way."""

_TEXTS: Final = (
    ("empty", ""),
    ("one letter", "a"),
    ("padded", "  a\t\r\n"),
    ("NUL", "a\0b"),
    ("quotes", "\"'\\`${a}<b>&%s"),
    ("accents", "\u00e9 e\u0301"),
    ("astral", "\U0001f9f5 \U0001f469\u200d\U0001f680"),
    ("right to left", "\u202e\u05d0\u0628"),
    ("byte order mark", "\ufeffa"),
    ("last code points", "\uffff\U0010ffff"),
    (f"{LONG} bytes", "x" * LONG),
)
_BYTES: Final = (
    ("empty", b""),
    ("00", b"\0"),
    ("no UTF-8", b"\xff\xfe\xc0"),
    ("all 256 values", bytes(range(256))),
    (f"{LONG} bytes", b"\xa5" * LONG),
)


def _floats(kind: Kind) -> list[tuple[str, Scalar]]:
    wide = kind.name == "double"
    most = struct.unpack("<d", bytes.fromhex("ffffffffffffef7f"))[0]
    if not wide:
        most = struct.unpack("<f", bytes.fromhex("ffff7f7f"))[0]
    least = 5e-324 if wide else struct.unpack("<f", bytes.fromhex("01000000"))[0]
    return [
        ("0", 0.0),
        ("-0", -0.0),
        ("-1", -1.0),
        ("0.1", 0.1 if wide else struct.unpack("<f", struct.pack("<f", 0.1))[0]),
        ("max", most),
        ("min", -most),
        ("least above 0", least),
        ("infinity", float("inf")),
        ("-infinity", float("-inf")),
        ("NaN", float("nan")),
    ]


def of_kind(kind: Kind) -> list[tuple[str, Scalar]]:
    """Those of a scalar kind, enums aside."""
    if kind.name in ("double", "float"):
        return _floats(kind)
    if kind.name == "bool":
        return [("false", False), ("true", True)]
    if kind.name == "string":
        return list(_TEXTS)
    if kind.name == "bytes":
        return list(_BYTES)
    if not kind.signed:
        return [("0", 0), ("1", 1), ("max", (1 << kind.bits) - 1)]
    half = 1 << kind.bits - 1
    return [("0", 0), ("1", 1), ("-1", -1), ("max", half - 1), ("min", -half)]


def of_enum(values: dict[int, str], *, closed: bool) -> list[tuple[str, Scalar]]:
    """Each value by its first name; and, where any number is allowed, numbers that have none."""
    found: list[tuple[str, Scalar]] = [(name, number) for number, name in sorted(values.items())]
    if not closed:
        unknown = 1
        while unknown in values:
            unknown += 1
        found.append(("unknown", unknown))
        for name, number in (("unknown max", 2**31 - 1), ("unknown min", -(2**31))):
            if number not in values:
                found.append((name, number))
    return found


def typical(kind: Kind) -> Scalar:
    """An ordinary value that is no default."""
    if kind.name in ("double", "float"):
        return 1.5
    return _TYPICAL.get(kind.name, 7)


def zero(kind: Kind) -> Scalar:
    """The default."""
    return _ZEROS.get(kind.name, 0)


_TYPICAL: Final[dict[str, Scalar]] = {"bool": True, "string": "text", "bytes": b"bytes"}
_ZEROS: Final[dict[str, Scalar]] = {"bool": False, "string": "", "bytes": b""}


def time_content(seconds: int, nanos: int) -> bytes:
    """A Timestamp or a Duration."""
    made = tag(1, VARINT) + varint(seconds) if seconds else b""
    return made + (tag(2, VARINT) + varint(nanos) if nanos else b"")


_TIMES: Final = {
    "google.protobuf.Timestamp": (
        ("1970", 0, 0),
        ("1 ns after 1970", 0, 1),
        ("1 ns before 1970", -1, 999_999_999),
        ("2038", 2**31, 0),
        ("year 1", -62_135_596_800, 0),
        ("end of year 9999", 253_402_300_799, 999_999_999),
        ("year 10000", 253_402_300_800, 0),
        ("negative nanos", 0, -1),
        ("too many nanos", 0, 1_000_000_000),
    ),
    "google.protobuf.Duration": (
        ("0", 0, 0),
        ("1 ns", 0, 1),
        ("-1 ns", 0, -1),
        ("max", 315_576_000_000, 999_999_999),
        ("min", -315_576_000_000, -999_999_999),
        ("over max", 315_576_000_001, 0),
        ("two signs", 1, -1),
    ),
}


def of_message(name: str) -> list[tuple[str, bytes, int | None]] | None:
    """Those of a well-known type that is more than its fields: names, contents and, of a time,
    its nanoseconds. None for a type that is no more."""
    if name in _TIMES:
        return [
            (label, time_content(seconds, nanos), seconds * 1_000_000_000 + nanos)
            for label, seconds, nanos in _TIMES[name]
        ]
    if name == "google.protobuf.Any":
        unknown = delimited(1, b"type.googleapis.com/plait.test.Unknown") + delimited(
            2, b"\x08\x01"
        )
        second = delimited(2, time_content(1, 0))
        duration = delimited(1, b"type.googleapis.com/google.protobuf.Duration") + second
        empty = ("empty", b"", None)
        return [empty, ("of an unknown type", unknown, None), ("a Duration", duration, None)]
    return None


def unknown_fields(first: int) -> bytes:
    """One of each encoding, from this number on downwards."""
    return b"".join(
        (
            tag(first, VARINT) + varint(1),
            tag(first - 1, FIXED64) + bytes(range(8)),
            tag(first - 2, BYTES) + varint(3) + b"new",
            tag(first - 3, FIXED32) + bytes(range(4)),
        )
    )
