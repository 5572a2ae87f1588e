"""Suppressed lint findings carry a rule and a reason, and their number does not rise."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Language:
    name: str
    suffix: str
    suppression: str
    """What counts as one."""
    explained: str
    """What one looks like when it has its rule and its reason."""


LANGUAGES = [
    Language(
        "python",
        ".py",
        r"#\s*(type:\s*ignore|noqa|mypy:|ruff:|pragma:).*",
        r"#\s*(type:\s*ignore\[[\w, -]+\]\s+#|noqa:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*\s+[#-]?)\s*\w.*",
    ),
    Language("go", ".go", r"//\s*nolint.*", r"//nolint:[\w,]+ // \w.*"),
    Language(
        "rust",
        ".rs",
        r"#!?\[(?:cfg_attr\(.*)?(?:allow|expect)\([^\]]*\)\]",
        r'#!?\[.*reason\s*=\s*"[^\]]*\]',
    ),
    Language(
        "typescript",
        ".ts",
        r"(?://|/\*)\s*(?:biome-ignore|@ts-|eslint-).*",
        r"//\s*biome-ignore lint/\w+/\w+: \w.*",
    ),
    Language("proto", ".proto", r"buf:lint:ignore.*", r"buf:lint:ignore [A-Z_]+ \w.*"),
]


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_suppressions(language: Language, root: Path, code: list[Path], allow: dict[str, Any]):
    found, bare = [], []
    for path in code:
        if path.suffix != language.suffix or path == Path("tests/tidy/test_suppressions.py"):
            continue
        for match in re.finditer(language.suppression, (root / path).read_text()):
            found.append(f"{path}: {match[0]}")
            if not re.fullmatch(language.explained, match[0], re.DOTALL):
                bare.append(f"{path}: {match[0]}")
    assert not bare, "no rule or no reason:\n" + "\n".join(bare)
    ceiling = allow["suppressions"][language.name]
    assert len(found) <= ceiling, f"{len(found)}, ceiling {ceiling}:\n" + "\n".join(found)
