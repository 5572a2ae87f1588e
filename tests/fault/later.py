"""Makes a data directory what a later release would have left: one version raised, all checksums
right. The bytes are described in services/broker/log/src/format.rs and record.proto.
"""

import struct
from collections.abc import Callable
from pathlib import Path

SEGMENT_HEADER = 4096
FRAME_HEADER = 32
LATER = 2
"""The version after the only one that is known."""
UNKNOWN_FACT = 99
"""A number that no fact of a record has."""
_TIME_MS = 1_800_000_000_000


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum of every file."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    """As protobuf has it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def meta(version: int, fact: int) -> bytes:
    """A FrameMeta with its length: a version, a time, one record with an empty fact."""
    record = varint(fact << 3 | 2) + b"\0"
    body = b"\x08" + varint(version) + b"\x10" + varint(_TIME_MS)
    body += b"\x1a" + varint(len(record)) + record
    return struct.pack("<I", len(body)) + body


def _only(data: Path, suffix: str) -> Path:
    found = sorted(data.glob(f"*{suffix}"))
    return found[-1]


def _raise_at(path: Path, covered: Callable[[bytes], bytes], sum_at: int) -> Path:
    """Raises the version at byte 8; `covered`: what the checksum at `sum_at` is of."""
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", LATER)
    place = sum_at % len(data)
    data[place : place + 4] = struct.pack("<I", crc32c(covered(bytes(data))))
    path.write_bytes(data)
    return path


def manifest(data: Path) -> Path:
    """The manifest of a later release."""
    return _raise_at(data / "manifest", lambda it: it[:-4], -4)


def segment(data: Path) -> Path:
    """The header of a segment."""
    return _raise_at(_only(data, ".seg"), lambda it: it[:60], 60)


def snapshot(data: Path) -> Path:
    """The newest snapshot."""
    return _raise_at(_only(data, ".snap"), lambda it: it[:-4], -4)


def archive(data: Path) -> Path:
    """An archive file."""

    def covered(it: bytes) -> bytes:
        (index,) = struct.unpack("<Q", it[-12:-4])
        return it[:32] + it[index:-4]

    return _raise_at(_only(data, ".arc"), covered, -4)


def snapshot_records(data: Path) -> Path:
    """The first chunk of the newest snapshot."""
    path = _only(data, ".snap")
    content = bytearray(path.read_bytes())
    assert content[36:38] == b"\x08\x01", "a chunk begins with its length and its version"
    content[37] = LATER
    content[-4:] = struct.pack("<I", crc32c(bytes(content[:-4])))
    path.write_bytes(content)
    return path


def frame(data: Path) -> Path:
    """A frame behind the last one."""
    return _append(data, meta(1, 11), version=LATER)


def records(data: Path) -> Path:
    """The records of a frame behind the last one."""
    return _append(data, meta(LATER, 11))


def unknown_kind(data: Path) -> Path:
    """A record of a kind that is not known, under a version that is."""
    return _append(data, meta(1, UNKNOWN_FACT))


def _append(data: Path, body: bytes, version: int = 1) -> Path:
    path = _only(data, ".seg")
    content = bytearray(path.read_bytes())
    base, salt = struct.unpack_from("<Q", content, 24)[0], content[48:56]
    at, epoch = SEGMENT_HEADER, struct.unpack_from("<Q", content, 40)[0]
    while content[at : at + 3] == b"PLF" and content[at + 16 : at + 24] == salt:
        length, epoch = struct.unpack_from("<IQ", content, at + 4)
        at += (FRAME_HEADER + length + 7) // 8 * 8
    head = b"PLF" + bytes([version]) + struct.pack("<IQ", len(body), epoch) + bytes(salt)
    head += struct.pack("<I", crc32c(body))
    offset = struct.pack("<Q", base + at - SEGMENT_HEADER)
    head += struct.pack("<I", crc32c(offset + head))
    content[at : at + FRAME_HEADER + len(body)] = head + body
    path.write_bytes(content)
    return path
