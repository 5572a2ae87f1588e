"""Finding the broker, and processes that are not what they should be."""

import os
import sys
import sysconfig

import pytest

from plait import _processes
from plait._processes import BROKER, Process, find_broker
from plait.testing import Mesh


def test_the_broker_that_is_named_is_taken(tmp_path):
    binary = tmp_path / "mine"
    binary.touch()
    assert find_broker({"PLAIT_BROKER": str(binary), "PLAIT_BIN": "/elsewhere"}) == binary
    with pytest.raises(FileNotFoundError, match="PLAIT_BROKER"):
        find_broker({"PLAIT_BROKER": str(tmp_path / "nothing")})


def test_the_broker_of_a_folder_is_taken(tmp_path):
    (tmp_path / BROKER).touch()
    assert find_broker({"PLAIT_BIN": str(tmp_path)}) == tmp_path / BROKER


def test_a_missing_broker_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("plait._processes._candidates", lambda _: iter([tmp_path / "here"]))
    with pytest.raises(FileNotFoundError, match="cargo build -p plait-broker") as caught:
        find_broker({"PATH": str(tmp_path)})
    assert str(tmp_path / "here") in str(caught.value)
    (tmp_path / BROKER).touch(mode=0o755)
    assert find_broker({"PATH": str(tmp_path)}) == tmp_path / BROKER


def test_beside_python_comes_before_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "bin"))
    monkeypatch.setattr(_processes, "__file__", str(tmp_path / "a" / "b.py"))
    (tmp_path / BROKER).touch(mode=0o755)
    assert find_broker({"PATH": str(tmp_path)}) == tmp_path / BROKER
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / BROKER).touch()
    assert find_broker({"PATH": str(tmp_path)}) == tmp_path / "bin" / BROKER


def test_the_newest_build_of_a_checkout_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "bin"))
    monkeypatch.setattr(_processes, "__file__", str(tmp_path / "sdk" / "x" / "b.py"))
    (tmp_path / "services" / "broker").mkdir(parents=True)
    (tmp_path / "services" / "broker" / "Cargo.toml").touch()
    for age, profile in enumerate(["debug", "release"]):
        built = tmp_path / "target" / profile / BROKER
        built.parent.mkdir(parents=True)
        built.touch()
        os.utime(built, (1000 - age, 1000 - age))
    assert find_broker({}) == tmp_path / "target" / "debug" / BROKER


def test_a_process_that_ends_says_its_last_words(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('the port is taken')"]
    process = Process("broker", command, tmp_path / "log")
    with pytest.raises(RuntimeError, match="broker ended with code 1\nthe port is taken"):
        process.wait_ready(30)


def test_a_process_that_never_gets_ready_is_killed(tmp_path):
    command = [sys.executable, "-c", "print('hello', flush=True); import signal; signal.pause()"]
    process = Process("broker", command, tmp_path / "log")
    with pytest.raises(RuntimeError, match="not ready"):
        process.wait_ready(0.5)
    assert process.terminate(1) == -9


def test_a_mesh_must_be_started():
    with pytest.raises(RuntimeError, match="not started"):
        _ = Mesh().address


def test_a_mesh_without_a_scheduler_keeps_its_data(tmp_path):
    with Mesh(tmp_path, scheduler=False, broker_arguments=["--sync", "none"]) as mesh:
        address = mesh.address
        mesh.kill_broker()
        mesh.start_broker()
        assert mesh.address == address
        assert mesh.data_dir == tmp_path
    assert any(tmp_path.iterdir())
