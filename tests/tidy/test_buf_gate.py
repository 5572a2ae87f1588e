"""The gates on the contracts close: a planted mistake fails, an honest change passes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CONTRACT = "proto/plait/v1/task.proto"


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A scratch copy of the contracts and of buf's settings."""
    for name in ["proto", "third_party"]:
        shutil.copytree(root / name, tmp_path / name)
    shutil.copy(root / "buf.yaml", tmp_path)
    return tmp_path


def breaking(root: Path, copy: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [root / ".ci/breaking.sh", "--root", copy]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def lint(root: Path, copy: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [root / "node_modules/.bin/buf", "lint"]
    return subprocess.run(command, cwd=copy, check=False, capture_output=True, text=True)


def first_field(text: str) -> re.Match[str]:
    match = re.search(r"^  // [^\n]*\n  string (?P<name>\w+) = \d+;\n", text, re.MULTILINE)
    assert match, f"{CONTRACT} has no commented string field"
    return match


def test_the_contracts_pass_as_they_are(root: Path, copy: Path):
    assert breaking(root, copy).stdout == ""
    assert lint(root, copy).stdout == ""


def test_a_removed_field_fails_the_breaking_check(root: Path, copy: Path):
    contract = copy / CONTRACT
    field = first_field(contract.read_text())
    contract.write_text(contract.read_text().replace(field[0], ""))
    result = breaking(root, copy)
    assert result.returncode != 0
    assert f'"{field["name"]}"' in result.stdout


def test_a_changed_type_fails_the_breaking_check(root: Path, copy: Path):
    contract = copy / CONTRACT
    field = first_field(contract.read_text())
    changed = field[0].replace("  string ", "  int64 ")
    contract.write_text(contract.read_text().replace(field[0], changed))
    assert breaking(root, copy).returncode != 0


def test_a_removed_contract_fails_the_breaking_check(root: Path, copy: Path):
    (copy / "proto/plait/v1/contract_service.proto").unlink()
    assert breaking(root, copy).returncode != 0


def test_a_new_message_passes_both(root: Path, copy: Path):
    contract = copy / CONTRACT
    added = "\n// Something new.\nmessage Planted {\n  // Its name.\n  string name = 1;\n}\n"
    contract.write_text(contract.read_text() + added)
    assert breaking(root, copy).returncode == 0
    assert lint(root, copy).returncode == 0


def test_a_field_without_a_sentence_fails_lint(root: Path, copy: Path):
    contract = copy / CONTRACT
    contract.write_text(
        contract.read_text() + "\n// X.\nmessage Planted {\n  string name = 1;\n}\n"
    )
    result = lint(root, copy)
    assert result.returncode != 0
    assert "non-empty comment" in result.stdout


def test_a_name_in_the_wrong_case_fails_lint(root: Path, copy: Path):
    contract = copy / CONTRACT
    added = "\n// X.\nmessage Planted {\n  // Its name.\n  string theName = 1;\n}\n"
    contract.write_text(contract.read_text() + added)
    assert lint(root, copy).returncode != 0
