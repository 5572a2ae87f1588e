"""Lines of several processes on one terminal: each behind its name, in its colour."""

import io
from collections.abc import Mapping
from typing import Any, TextIO

from plait_scheduler.lines import LineBuffer

_COLOURS = ("36", "33", "35", "32", "34", "31")
_RESET = "\x1b[0m"


def wants_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the stream is a terminal that is not told to be plain (NO_COLOR, TERM=dumb)."""
    return (
        stream.isatty()
        and not environment.get("NO_COLOR")
        and environment.get("TERM", "") != "dumb"
    )


class Printer:
    """Writes whole lines; the names are padded to the longest."""

    def __init__(self, stream: TextIO, names: list[str], colour: bool) -> None:
        self._width = max((len(name) for name in names), default=0)
        self._colour = colour
        self._stream = stream
        self._prefixes: dict[str, str] = {}
        for name in names:
            self._add(name)

    def line(self, name: str, text: str) -> None:
        """One line of a process; a name that is new has the next colour."""
        if name not in self._prefixes:
            self._add(name)
        self._stream.write(f"{self._prefixes[name]}{text}\n")
        self._stream.flush()

    def _add(self, name: str) -> None:
        colour = _COLOURS[len(self._prefixes) % len(_COLOURS)] if self._colour else ""
        self._prefixes[name] = _prefix(name.ljust(self._width), colour)

    def file(self, name: str) -> TextIO:
        """A file whose lines are those of a process in this process, such as its logs."""
        lines = io.BufferedWriter(_Lines(self, name))
        return io.TextIOWrapper(lines, "utf-8", line_buffering=True)


def _prefix(name: str, colour: str) -> str:
    return f"\x1b[{colour}m{name} |{_RESET} " if colour else f"{name} | "


class _Lines(io.RawIOBase):
    """Collects what is written into lines."""

    def __init__(self, printer: Printer, name: str) -> None:
        self._printer = printer
        self._name = name
        self._buffer = LineBuffer()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        for line in self._buffer.feed(bytes(data)):
            self._printer.line(self._name, line)
        return len(data)
