"""Bytes of a process as lines."""

# Longer lines are cut into pieces, so that a process cannot fill the memory.
LINE_MAX = 64 * 1024


class LineBuffer:
    """Cuts bytes as they come into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LINE_MAX:
            lines.append(self._rest[:LINE_MAX])
            self._rest = self._rest[LINE_MAX:]
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        """What is left at the end, if anything."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")
