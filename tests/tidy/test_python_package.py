"""The hand-written and the generated half of `plait` are one package, editable and as a wheel."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path


def test_both_halves_import(root: Path):
    import plait
    from plait.v1 import task_pb2

    assert Path(plait.__file__).is_relative_to(root / "sdk/python/src")
    assert Path(task_pb2.__file__).is_relative_to(root / "sdk/python/gen")


def test_the_wheel_holds_both_halves_and_no_example(root: Path, tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=root / "sdk/python",
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"plait/__init__.py", "plait/py.typed", "plait/v1/task_pb2.py"} <= set(names)
    folders = {name.split("/")[0] for name in names}
    assert folders == {"plait", "plait-0.1.0.dist-info"}


def test_the_scheduler_s_wheel_brings_its_own_envoy_messages(root: Path, tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=root / "services/scheduler",
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"plait_scheduler/main.py", "plait_xds/discovery_pb2.py"} <= set(names)
    # xds-protos installs envoy, and parts of google and opentelemetry with it.
    folders = {name.split("/")[0] for name in names}
    assert folders == {
        "plait_scheduler",
        "plait_keda",
        "plait_xds",
        "plait_scheduler-0.1.0.dist-info",
    }


def test_mypy_is_told_of_every_file(root: Path, code: list[Path]):
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    folders = settings["tool"]["mypy"]["files"]
    python = [path for path in code if path.suffix == ".py"]
    unseen = [str(path) for path in python if not any(path.is_relative_to(f) for f in folders)]
    assert not unseen, "add to [tool.mypy] files: " + ", ".join(unseen)
