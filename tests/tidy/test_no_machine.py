"""Nothing in the repository knows the machine or the network it was written on."""

import json
import re
import tomllib
from pathlib import Path

# A path below a folder where people and build machines keep their work.
LOCAL_PATH = re.compile(r"(?<![\w./~-])/(home|root|Users|mnt|work|builds)/\w")
PRIVATE_HOST = re.compile(r"https?://[\w.-]+\.(internal|intranet|corp|lan|local)\b")
PYPI = re.compile(r"https://(pypi\.org|files\.pythonhosted\.org)/")
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def test_no_path_of_a_machine_and_no_private_host(root: Path, tracked: list[Path]):
    found = []
    for path in tracked:
        if path.suffix == ".binpb" or path == Path("tests/tidy/test_no_machine.py"):
            continue
        text = (root / path).read_text(errors="replace")
        found += [
            f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
            for match in [*LOCAL_PATH.finditer(text), *PRIVATE_HOST.finditer(text)]
        ]
    assert not found, "\n".join(found)


def test_uv_lock_names_the_public_index_only(root: Path):
    text = (root / "uv.lock").read_text()
    urls = re.findall(r'"(https?://[^"]+)"', text)
    assert urls
    assert [url for url in urls if not PYPI.match(url)] == []


def test_package_lock_names_the_public_registry_only(root: Path):
    packages = json.loads((root / "package-lock.json").read_text())["packages"]
    resolved = [
        package["resolved"]
        for package in packages.values()
        # A link is a package of this repository.
        if "resolved" in package and not package.get("link")
    ]
    assert [url for url in resolved if not url.startswith("https://registry.npmjs.org/")] == []


def test_cargo_lock_names_crates_io_only(root: Path):
    packages = tomllib.loads((root / "Cargo.lock").read_text())["package"]
    sources = {package["source"] for package in packages if "source" in package}
    assert sources == {CRATES_IO}


def test_no_client_of_a_registry_is_configured(tracked: list[Path]):
    configurations = {".npmrc", "pip.conf", "uv.toml", ".pypirc", ".yarnrc.yml"}
    assert [path for path in tracked if path.name in configurations] == []
    assert Path(".cargo/config.toml") not in tracked
