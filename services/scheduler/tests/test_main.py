"""Settings, flags and signals of the process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from plait_scheduler.main import USAGE_ERROR, main
from plait_scheduler.settings import Settings
from services.scheduler.tests.fake_broker import FakeBroker


def test_defaults_are_those_of_a_machine_alone():
    settings = Settings()
    assert settings.broker == "127.0.0.1:7420"
    assert settings.listen == "127.0.0.1:7423"
    assert not settings.dev


def test_the_environment_is_read_and_flags_win(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLAIT_ADDRESS", "127.0.0.1:1")
    assert Settings().broker == "127.0.0.1:1"
    monkeypatch.setenv("PLAIT_SCHEDULER_BROKER", "127.0.0.1:2")
    monkeypatch.setenv("PLAIT_SCHEDULER_DEV", "true")
    monkeypatch.setenv("PLAIT_SCHEDULER_FIGURES_INTERVAL_MS", "250")
    settings = Settings()
    assert (settings.broker, settings.dev, settings.figures_interval_ms) == (
        "127.0.0.1:2",
        True,
        250,
    )
    assert Settings(broker="127.0.0.1:3").broker == "127.0.0.1:3"


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:1", "[::1]:0", "127.8.9.1:5"])
def test_loopback_is_listened_on(listen: str):
    assert Settings(listen=listen).listen == listen


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("listen", "0.0.0.0:1"),
        ("listen", "example.com:1"),
        ("listen", "[::]:0"),
        ("listen", "127.0.0.1"),
        ("listen", "127.0.0.1:99999"),
        ("metrics_listen", "0.0.0.0:1"),
        ("metrics_listen", ""),
        ("broker", "nowhere"),
        ("figures_interval_ms", 49),
        ("drain_ms", -1),
        ("log_level", "loud"),
        ("log_format", "xml"),
    ],
)
def test_what_makes_no_sense_is_refused(setting: str, value: Any):
    with pytest.raises(ValidationError):
        Settings(**{setting: value})


def test_wrong_usage_names_the_setting(capsys: pytest.CaptureFixture[str]):
    assert main(["--figures-interval-ms", "1", "--listen", "0.0.0.0:1"]) == USAGE_ERROR
    errors = capsys.readouterr().err
    assert "plait-scheduler: figures_interval_ms: " in errors
    assert 'listen: Value error, "0.0.0.0:1" is not on loopback' in errors


async def start(*flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait_scheduler", "--listen", "127.0.0.1:0", *flags),
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def test_it_says_when_it_is_ready_and_leaves_on_sigterm(broker: FakeBroker):
    process = await start("--broker", broker.address)
    assert process.stdout is not None
    async with asyncio.timeout(50):
        ready = json.loads(await process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        out, errors = await process.communicate()
    assert ready["event"] == "ready"
    assert ready["process"] == "scheduler"
    assert broker.observers
    assert out == b""
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert events[-2:] == ["draining", "stopped"]


async def test_a_port_in_use_is_told(broker: FakeBroker):
    process = await start("--broker", broker.address, "--listen", broker.address)
    async with asyncio.timeout(50):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"plait-scheduler: " in errors
    assert broker.address.encode() in errors
