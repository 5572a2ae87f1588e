"""`make gen` writes what the contracts say, removes what they no longer say, and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

# The first run on a fresh machine compiles the Rust generator.
pytestmark = pytest.mark.timeout(300)
LANGUAGES = {"go": ".go", "python": ".pyi", "rust": ".rs", "typescript": ".ts"}


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A scratch copy of the contracts, buf's settings and the generated code."""
    for name in ["proto", "third_party", *(f"sdk/{language}/gen" for language in LANGUAGES)]:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / name, tmp_path / name, ignore=ignore)
    for name in ["buf.yaml", "buf.gen.yaml"]:
        shutil.copy(root / name, tmp_path)
    return tmp_path


def generate(root: Path, copy: Path) -> None:
    subprocess.run([root / ".ci/gen.sh", "--root", copy], check=True, capture_output=True)


def contents(copy: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (copy / "sdk").rglob("*")
        if path.is_file()
    }


def test_what_is_there_is_what_the_contracts_say(root: Path, copy: Path):
    before = contents(copy)
    generate(root, copy)
    changed = [path for path, found in contents(copy).items() if before.get(path) != found]
    assert not changed, "run `make gen`"
    assert contents(copy).keys() == before.keys()


def test_a_new_message_reaches_every_language(root: Path, copy: Path):
    contract = copy / "proto/plait/v1/task.proto"
    added = "\n// Something new.\nmessage Planted {\n  // Its name.\n  string name = 1;\n}\n"
    contract.write_text(contract.read_text() + added)
    generate(root, copy)
    for language, suffix in LANGUAGES.items():
        files = (copy / f"sdk/{language}/gen").rglob(f"*{suffix}")
        assert any("Planted" in file.read_text() for file in files), language


def test_a_file_without_a_contract_goes(root: Path, copy: Path):
    strays = [
        copy / f"sdk/{language}/gen/stray/stray{LANGUAGES[language]}" for language in LANGUAGES
    ]
    for stray in strays:
        stray.parent.mkdir()
        stray.write_text("")
    generate(root, copy)
    assert not any(stray.parent.exists() for stray in strays)
