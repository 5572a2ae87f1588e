"""The rules of protovalidate (buf.validate) that a field carries, as far as they are plain.

They are read from the bytes of the field's options, so nobody needs to have the extension. CEL
expressions and patterns are not evaluated: of those, nothing is claimed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from plait._boundary import edges
from plait._boundary.wire import KINDS, Kind, Scalar, read, value_of

EXTENSION: Final = 1159
"""The number of buf.validate.field, .message and .oneof among the options."""

_IGNORE_IF_ZERO, _IGNORE_ALWAYS = 1, 3
# Members of buf.validate.FieldRules.
_REQUIRED, _IGNORE, _REPEATED, _MAP, _DURATION, _TIMESTAMP = 25, 27, 18, 19, 21, 22
_KINDS: Final = (
    *("float", "double", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32"),
    *("fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes", "enum"),
)
_OF_KIND: Final = {name: number for number, name in enumerate(_KINDS, start=1)}
_NUMBERS: Final = {1: "const", 2: "lt", 3: "lte", 4: "gt", 5: "gte", 6: "in", 7: "not_in"}
_STRINGS: Final = (
    "const=1 len=19 min_len=2 max_len=3 len_bytes=20 min_bytes=4 max_bytes=5 prefix=7 suffix=8"
    " contains=9 not_contains=23 in=10 not_in=11 email=12 hostname=13 ip=14 ipv4=15 ipv6=16 uri=17"
    " address=21 uuid=22"
)
_BYTES: Final = (
    "const=1 len=13 min_len=2 max_len=3 prefix=5 suffix=6 contains=7 in=8 not_in=9 ip=10 ipv4=11"
    " ipv6=12 uuid=15"
)


def _table(text: str) -> dict[int, str]:
    return {int(number): name for name, number in (each.split("=") for each in text.split())}


_NAMES: Final[dict[str, dict[int, str]]] = {
    "bool": {1: "const"},
    "string": _table(_STRINGS),
    "bytes": _table(_BYTES),
    "enum": {1: "const", 2: "defined_only", 3: "in", 4: "not_in"},
    "duration": _table("const=2 lt=3 lte=4 gt=5 gte=6 in=7 not_in=8"),
    "timestamp": _table("const=2 lt=3 lte=4 gt=5 gte=6"),
}
_FORMATS: Final = {
    "email": "a@example.com",
    "hostname": "example.com",
    "ip": "192.0.2.1",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/a",
    "address": "example.com",
    "uuid": "0b8f6f1e-7f9c-4d3e-9a57-3f1c2b7d9e10",
}
"""A text that satisfies each, and so do few others: of those, nothing is claimed."""

_SIZES: Final = {"ip": (4, 16), "ipv4": (4,), "ipv6": (16,), "uuid": (16,)}
_INT64, _UINT64 = KINDS[3], KINDS[4]


class FieldRules:
    """The rules of one field, or of the elements, keys or values of one."""

    def __init__(self, raw: bytes = b"", declared: Iterable[int] = ()) -> None:
        """raw: a buf.validate.FieldRules; declared: the numbers of the field's enum."""
        self._members = dict(read(raw))
        self._declared = frozenset(declared)
        self._ignore = self._members.get(_IGNORE, 0)

    @property
    def any(self) -> bool:
        """Whether there are any, understood or not."""
        return bool(self._members)

    @property
    def required(self) -> bool:
        """Whether it must be set."""
        return bool(self._members.get(_REQUIRED)) and self._ignore != _IGNORE_ALWAYS

    def counts(self) -> tuple[int, int]:
        """How many elements or entries there are, at least and at most; 0 for no bound, and for
        one that is too large to be tried."""
        found = dict(read(self._member(_REPEATED) or self._member(_MAP)))
        least, most = found.get(1, 0), found.get(2, 0)
        assert isinstance(least, int)
        assert isinstance(most, int)
        return least if least <= _COUNT_MAX else 0, most if most <= _COUNT_MAX else 0

    def inner(self, number: int, declared: Iterable[int] = ()) -> "FieldRules":
        """Those of elements and of keys (4), or of values (5)."""
        found = dict(read(self._member(_MAP) or self._member(_REPEATED)))
        raw = found.get(number, b"")
        assert isinstance(raw, bytes)
        return FieldRules(raw, declared)

    def broken(self, kind: Kind, value: Scalar) -> str:
        """The first rule that a value of a scalar kind certainly breaks; "" for none."""
        if self._skips(zero=not value):
            return ""
        for name, said in self._of(kind):
            if not _holds(name, value, said, self._declared):
                return _text(name, said)
        return ""

    def time_broken(self, nanos: int) -> str:
        """The same of a Duration, or of a Timestamp, in nanoseconds."""
        if self._skips(zero=False):
            return ""
        for name, said in self._of_time():
            if not _holds(name, nanos, said, self._declared):
                return f"{_text(name, said)} ns"
        return ""

    def edges(self, kind: Kind) -> list[tuple[str, Scalar]]:
        """Values at the edges of the rules and just outside."""
        found: list[tuple[str, Scalar]] = []
        if not self._skips(zero=False):
            for name, said in self._of(kind):
                found += _around(name, said, kind)
        return found

    def time_edges(self) -> list[tuple[str, int]]:
        """The same of times, in nanoseconds."""
        return [
            (f"{label} ns", value)
            for name, said in self._of_time()
            for label, value in _around(name, said, _INT64)
        ]

    def good(self, kind: Kind, ordinary: Sequence[Scalar]) -> Scalar:
        """A value that satisfies them, as far as is known: an ordinary one, or one at an edge."""
        names = dict(self._of(kind))
        candidates = [*ordinary, *(value for _, value in self.edges(kind))]
        candidates += _made(names, kind)
        for value in candidates:
            certain = not any(name in _FORMATS and kind.name == "string" for name in names)
            if not self.broken(kind, value) and (certain or value in _FORMATS.values()):
                return value
        return candidates[0]

    def good_time(self) -> int:
        """The same of times, in nanoseconds."""
        candidates = [1_000_000_000, *(value for _, value in self.time_edges())]
        return next((each for each in candidates if not self.time_broken(each)), candidates[0])

    def _skips(self, *, zero: bool) -> bool:
        return self._ignore == _IGNORE_ALWAYS or (zero and self._ignore == _IGNORE_IF_ZERO)

    def _member(self, number: int) -> bytes:
        found = self._members.get(number, b"")
        return found if isinstance(found, bytes) else b""

    def _of(self, kind: Kind) -> list[tuple[str, Any]]:
        """Names and what they say; of lists, all that they say."""
        names = _NAMES.get(kind.name, _NUMBERS)
        if kind.name in ("float", "double"):
            names = {**names, 8: "finite"}
        return _listed(self._member(_OF_KIND[kind.name]), names, lambda name: _said(name, kind))

    def _of_time(self) -> list[tuple[str, Any]]:
        duration, timestamp = self._member(_DURATION), self._member(_TIMESTAMP)
        names = _NAMES["duration" if duration else "timestamp"]
        return _listed(duration or timestamp, names, lambda _: _nanos)


def _listed(
    raw: bytes, names: dict[int, str], reader: Callable[[str], Callable[[int | bytes], Any]]
) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for number, value in read(raw):
        name = names.get(number)
        if name is None:
            continue
        said = reader(name)(value)
        if name in ("in", "not_in"):
            found.setdefault(name, []).append(said)
        else:
            found[name] = said
    low = found.get("gt", found.get("gte"))
    high = found.get("lt", found.get("lte"))
    if low is not None and high is not None and low >= high:
        # Either side of a gap; nothing is claimed of it.
        found = {name: said for name, said in found.items() if name not in _BOUNDS}
    return list(found.items())


# A length that is asked for beyond this is not tried.
_SIZE_MAX: Final = 4 * edges.LONG
_COUNT_MAX: Final = 10_000
_BOUNDS: Final = ("lt", "lte", "gt", "gte")
_LENGTHS: Final = ("len", "min_len", "max_len", "len_bytes", "min_bytes", "max_bytes")


def _said(name: str, kind: Kind) -> Callable[[int | bytes], Any]:
    if name in _LENGTHS:
        return lambda found: value_of(_UINT64, found)
    if name in _SIZES or name in _FORMATS or name in ("defined_only", "finite"):
        return bool
    return lambda found: value_of(kind, found)


def _nanos(raw: int | bytes) -> int:
    assert isinstance(raw, bytes)
    found = {number: value_of(_INT64, value) for number, value in read(raw)}
    return int(found.get(1, 0)) * 1_000_000_000 + int(found.get(2, 0))


def _size(name: str, value: Any) -> int:
    """What a length is counted in: code points of text, or bytes."""
    return len(value.encode()) if name.endswith("bytes") and isinstance(value, str) else len(value)


_CHECKS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "const": lambda value, said: value == said,
    "lt": lambda value, said: value < said,
    "lte": lambda value, said: value <= said,
    "gt": lambda value, said: value > said,
    "gte": lambda value, said: value >= said,
    "in": lambda value, said: value in said,
    "not_in": lambda value, said: value not in said,
    "prefix": lambda value, said: value.startswith(said),
    "suffix": lambda value, said: value.endswith(said),
    "contains": lambda value, said: said in value,
    "not_contains": lambda value, said: said not in value,
    "finite": lambda value, said: not said or abs(value) <= 1.7976931348623157e308,
}


def _holds(name: str, value: Any, said: Any, declared: frozenset[int]) -> bool:
    if name == "defined_only":
        return not said or value in declared
    if name in _LENGTHS:
        size = _size(name, value)
        if name.startswith("min"):
            return size >= int(said)
        return size <= int(said) if name.startswith("max") else size == int(said)
    if name in _SIZES and isinstance(value, bytes):
        return not said or len(value) in _SIZES[name]
    if name in _FORMATS:
        # Whatever else it is, a control character and nothing at all are none of them.
        return not said or (value != "" and "\0" not in value)
    return _CHECKS[name](value, said)


def _around(name: str, said: Any, kind: Kind) -> list[tuple[str, Any]]:
    """Values at and beside what a rule says."""
    if name in _BOUNDS:
        beside = (("below", _step(said, -1)), ("at", said), ("above", _step(said, 1)))
        return [
            (f"{label} {_text(name, said)}", each) for label, each in beside if _fits(kind, each)
        ]
    if name in ("in", "not_in"):
        return [(_text(name, each), each) for each in said]
    if name in _LENGTHS:
        unit: Any = "x" if kind.name == "string" else b"x"
        sizes = (int(said) - 1, int(said), int(said) + 1)
        return [
            (f"{size} for {_text(name, said)}", unit * size)
            for size in sizes
            if 0 <= size <= _SIZE_MAX
        ]
    if name in _SIZES and kind.name == "bytes":
        return [(f"{size} bytes for {name}", b"\x01" * size) for size in (*_SIZES[name], 5)]
    if name in _FORMATS:
        return [(f"good {name}", _FORMATS[name]), (f"no {name}", "\0")]
    return [(_text(name, said), said)] if name in ("const", "prefix", "suffix") else []


def _step(said: Any, by: int) -> Any:
    """The next number of a whole kind; of a floating one, one that is surely beside it."""
    return said + by if isinstance(said, int) else said + by * max(1.0, abs(said) / 2)


def _fits(kind: Kind, value: Any) -> bool:
    if not kind.bits:
        # What is too large for a float would be infinity.
        return kind.name != "float" or abs(value) < 3.4e38
    half = 1 << kind.bits - 1
    least, most = (-half, half) if kind.signed else (0, 2 * half)
    return bool(least <= value < most)


def _made(names: dict[str, Any], kind: Kind) -> list[Scalar]:
    """Texts that are put together from what several rules ask for."""
    if kind.name not in ("string", "bytes"):
        return []
    empty: Any = "" if kind.name == "string" else b""
    parts = [names.get(name, empty) for name in ("prefix", "contains", "suffix")]
    least = max(int(names.get(name, 0)) for name in ("len", "min_len", "len_bytes", "min_bytes"))
    unit: Any = "x" if kind.name == "string" else b"x"
    fill = unit * max(0, min(least, _SIZE_MAX) - sum(map(len, parts)))
    made: Scalar = parts[0] + parts[1] + fill + parts[2]
    return [made]


def _text(name: str, said: Any) -> str:
    if isinstance(said, list):
        return f"{name} {', '.join(map(_shown, said))}"
    return name if said is True else f"{name} {_shown(said)}"


def _shown(said: Any) -> str:
    if isinstance(said, bytes):
        return said.hex()
    if isinstance(said, bool):
        return str(said).lower()
    if isinstance(said, float) and said.is_integer() and abs(said) < 1e15:
        return str(int(said))
    return str(said)
