"""Hand-written files stay short enough to read in one sitting."""

from pathlib import Path
from typing import Any

WALL = 700
TEST_WALL = 1000
COLUMNS = 120


def is_test(path: Path) -> bool:
    return "tests" in path.parts or path.stem.startswith("test_") or path.stem.endswith("_test")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_no_file_is_longer_than_its_wall(root: Path, code: list[Path], allow: dict[str, Any]):
    allowed = {entry["path"]: entry["lines"] for entry in allow.get("size", [])}
    too_long = []
    for path in code:
        size = len(lines_of(root / path))
        wall = allowed.get(str(path), TEST_WALL if is_test(path) else WALL)
        if size > wall:
            too_long.append(f"{path}: {size} lines, wall {wall}; split it by noun")
    assert not too_long, "\n".join(too_long)


def test_every_allowed_size_is_still_needed(root: Path, allow: dict[str, Any]):
    stale = []
    for entry in allow.get("size", []):
        assert entry["reason"], f"{entry['path']} has no reason"
        size = len(lines_of(root / entry["path"]))
        if size < entry["lines"] or size <= WALL:
            stale.append(f"{entry['path']}: {size} lines now; lower or remove its entry")
    assert not stale, "\n".join(stale)


def test_no_line_is_too_wide(root: Path, code: list[Path]):
    """The formatters hold code at 100 columns; this holds what they leave alone."""
    wide = []
    for path in code:
        for number, line in enumerate(lines_of(root / path), 1):
            width = len(line.expandtabs(4))
            if width > COLUMNS and "://" not in line:
                wide.append(f"{path}:{number}: {width} columns, wall {COLUMNS}")
    assert not wide, "\n".join(wide)
