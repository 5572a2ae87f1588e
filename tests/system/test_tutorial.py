"""The tutorial of the README, command by command, as a reader types it."""

import asyncio
import functools
import os
import re
from pathlib import Path

import pytest

from tests.support.mesh import ROOT, binaries
from tests.support.processes import Process
from tests.support.waiting import eventually

TUTORIAL = "## Your own service in five minutes"
DEV = "plait dev -- python worker.py"


def blocks() -> list[str]:
    """The shell blocks of the tutorial, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split(TUTORIAL)[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def test_blocks_are_found():
    assert sum(DEV in block for block in blocks()) == 1
    assert len(blocks()) == 5


@pytest.mark.timeout(300)
async def test_every_command_of_the_tutorial_works(tmp_path: Path):
    """The build is the one under test; the home folder and the port are the test's own."""
    build, contract, dev, call, caller = blocks()
    assert "make setup build" in build
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PLAIT": str(ROOT),
        "PATH": f"{ROOT}/.venv/bin:{ROOT}/.tools/bin:{os.environ['PATH']}",
        "PLAIT_BROKER": str(binaries() / "plait-broker"),
        "PLAIT_LISTEN": "127.0.0.1:0",
        "PLAIT_DATA_DIR": str(tmp_path / "data"),
        # What was downloaded stays where it was.
        "GOPATH": os.environ.get("GOPATH", str(Path.home() / "go")),
        "GOCACHE": os.environ.get("GOCACHE", str(Path.home() / ".cache/go-build")),
    }
    said = await run(contract, environment)
    assert "hello.proto" in said
    log = tmp_path / "dev.log"
    command = ["bash", "-ec", f"cd ~/hello && exec {dev}"]
    everything = await Process.start("plait dev", command, env=environment, log=log)
    try:
        environment["PLAIT_ADDRESS"] = everything.address
        # A reader types slower than a worker starts.
        known = functools.partial(run, "plait contract list", environment)
        await eventually(known, lambda said: "hello.v1.HelloService" in said)
        assert '"Hello, you!"' in await run(call, environment)
        said = await run(caller, environment)
        assert "Hello, Go!\nsubmitted t" in said
        assert said.endswith("Hello, later!\n")
    finally:
        assert await everything.terminate() == 0


async def run(script: str, environment: dict[str, str]) -> str:
    """Runs a block in a shell that stops at the first error; answers all that it wrote."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-ec", script),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await shell.communicate())[0].decode()
    assert shell.returncode == 0, said
    return said
