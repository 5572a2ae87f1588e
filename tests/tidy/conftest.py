"""What the tidy tests look at: the files of the repository as git sees them.

They read text and run the repository's own gates on copies. They never look into ignored folders.
"""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CODE = {".py", ".rs", ".go", ".ts", ".tsx", ".js", ".proto", ".sh", ".css", ".html", ".sql"}
BINARY = {".binpb", ".png", ".jpg", ".ico", ".gz", ".zip", ".woff2"}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """Every file that is in git or would be added by `git add .`, relative to the root."""
    out = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = {Path(name) for name in out.split("\0") if name}
    return sorted(path for path in paths if (ROOT / path).is_file())


@pytest.fixture(scope="session")
def generated(tracked: list[Path]) -> list[Path]:
    return [path for path in tracked if _under_gen(path)]


@pytest.fixture(scope="session")
def hand_written(tracked: list[Path]) -> list[Path]:
    """The text files that a person of this project writes."""
    return [
        path
        for path in tracked
        if not _under_gen(path) and path.parts[0] != "third_party" and path.suffix not in BINARY
    ]


@pytest.fixture(scope="session")
def code(hand_written: list[Path]) -> list[Path]:
    return [path for path in hand_written if path.suffix in CODE or path == Path(".ci/run")]


@pytest.fixture(scope="session")
def allow() -> dict[str, Any]:
    return tomllib.loads((ROOT / "tests/tidy/allow.toml").read_text())


def _under_gen(path: Path) -> bool:
    return len(path.parts) > 3 and path.parts[0] == "sdk" and path.parts[2] == "gen"
