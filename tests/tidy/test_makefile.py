"""The Makefile stays a table of contents: short, and every target says what it does."""

import re
import subprocess
from pathlib import Path

TARGET = re.compile(r"^([a-z][a-z%-]*):(?!=)(.*)$")


def makefile(root: Path) -> list[str]:
    return (root / "Makefile").read_text().splitlines()


def test_it_has_at_most_120_lines(root: Path):
    assert len(makefile(root)) <= 120


def test_every_recipe_has_at_most_3_lines(root: Path):
    run = 0
    for number, line in enumerate(makefile(root), 1):
        run = run + 1 if line.startswith("\t") else 0
        assert run <= 3, f"Makefile:{number}: move the recipe into .ci/"


def test_every_target_has_help(root: Path):
    silent = [
        match[1]
        for line in makefile(root)
        if (match := TARGET.match(line)) and not re.search(r"## \S", match[2])
    ]
    assert not silent, f"no `##` text: {silent}"


def test_the_default_target_prints_every_target(root: Path):
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    targets = [match[1] for line in makefile(root) if (match := TARGET.match(line))]
    assert targets
    missing = [target for target in targets if f"  {target} " not in printed]
    assert not missing, f"not in the help: {missing}"
