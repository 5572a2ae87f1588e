"""Text that is never right here, each with what to write instead."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ban:
    pattern: str
    instead: str
    suffixes: frozenset[str]
    tests_only: bool = False


PYTHON = frozenset({".py"})
RUST = frozenset({".rs"})
GO = frozenset({".go"})
TYPESCRIPT = frozenset({".ts", ".tsx"})
ANY = PYTHON | RUST | GO | TYPESCRIPT | {".js", ".proto", ".sh"}
BANS = [
    Ban(r"\btime\.sleep\(", "wait for the event", PYTHON),
    Ban(r"\basyncio\.sleep\((?!0\))", "wait for the event, with a timeout", PYTHON, True),
    Ban(r"\bthread::sleep\(", "wait for the event", RUST),
    Ban(r"\btime\.Sleep\(", "wait for the event, or a timer beside ctx.Done()", GO),
    Ban(r"\bsetTimeout\(", "wait for the event", TYPESCRIPT, True),
    Ban(r"\bdbg!\(", "tracing::debug!", RUST),
    Ban(r"\btodo!\(|\bunimplemented!\(", "write it, or leave it out", RUST),
    Ban(r"\bNotImplementedError\b", "write it, or an abstract method", PYTHON),
    Ban(r"\b(TODO|FIXME|XXX)\b", "do it, or open an issue and say nothing here", ANY),
    Ban(r"\basyncio\.get_event_loop\(", "asyncio.get_running_loop", PYTHON),
]


@pytest.mark.parametrize("ban", BANS, ids=lambda ban: ban.pattern)
def test_banned_text(ban: Ban, root: Path, code: list[Path], allow: dict[str, Any]):
    regex = re.compile(ban.pattern)
    found = []
    for path in code:
        if path.suffix not in ban.suffixes or path == Path("tests/tidy/test_banned.py"):
            continue
        if ban.tests_only and "tests" not in path.parts:
            continue
        text = (root / path).read_text()
        hits = [text.count("\n", 0, hit.start()) + 1 for hit in regex.finditer(text)]
        allowed = sum(
            entry["count"]
            for entry in allow.get("banned", [])
            if entry["path"] == str(path) and regex.search(entry["text"]) and entry["reason"]
        )
        if len(hits) > allowed:
            found += [f"{path}:{line}" for line in hits]
    assert not found, f"write instead: {ban.instead}\n" + "\n".join(found)


def test_every_exception_is_still_needed(root: Path, allow: dict[str, Any]):
    stale = [
        f"{entry['path']}: {entry['text']}"
        for entry in allow.get("banned", [])
        if (root / entry["path"]).read_text().count(entry["text"]) < entry["count"]
    ]
    assert not stale, "lower or remove in allow.toml:\n" + "\n".join(stale)
