"""`python -m plait_scheduler dev` as a whole, with a broker of this folder's making."""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from plait_scheduler.dev.command import main
from plait_scheduler.dev.printer import Printer, wants_colour
from plait_scheduler.lines import LINE_MAX, LineBuffer

ROOT = Path(__file__).parents[3]
# The fake broker as a process that takes the broker's flags.
BROKER = f"""#!{sys.executable}
import argparse, asyncio, json, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from services.scheduler.tests.fake_broker import FakeBroker
parser = argparse.ArgumentParser()
parser.add_argument("--listen")
parser.add_argument("--data-dir")
parser.add_argument("--dev", action="store_true")
flags = parser.parse_args()
async def run():
    broker = FakeBroker()
    broker.address = flags.listen
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await broker.start()
    print(json.dumps({{"event": "ready", "address": broker.address}}), flush=True)
    print("data in", flags.data_dir, flush=True)
    await stop.wait()
    await broker.stop()
    print("broker left", flush=True)
asyncio.run(run())
"""
WORKER = "import os, signal; print('address', os.environ['PLAIT_ADDRESS']); signal.pause()"


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class Dev:
    """A run of the command in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdout, self._stderr = process.stdout, process.stderr
        self.ready: dict[str, Any] = {}
        self.log: list[str] = []
        self.events: list[dict[str, Any]] = []

    async def wait_ready(self) -> None:
        async with asyncio.timeout(50):
            while self.ready.get("event") != "ready":
                self.ready = json.loads(await self._stdout.readline())
                self.events.append(self.ready)

    async def wait_line(self, part: str) -> str:
        async with asyncio.timeout(50):
            while line := (await self._stderr.readline()).decode().rstrip():
                self.log.append(line)
                if part in line:
                    return line
        raise AssertionError(f"it ended without saying {part}:\n" + "\n".join(self.log))

    async def end(self) -> int:
        async with asyncio.timeout(50):
            rest = (await self._stderr.read()).decode()
            self.log += rest.splitlines()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *arguments: str) -> AsyncIterator[Dev]:
    broker = script(tmp_path / "broker.py", BROKER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait_scheduler", "dev", "--listen", "127.0.0.1:0"),
        *("--data-dir", str(tmp_path / "data"), *arguments),
        env={**os.environ, "PLAIT_BROKER": str(broker), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    dev = Dev(process)
    try:
        yield dev
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_everything_is_up_and_goes_down_in_order(tmp_path: Path):
    async with running(tmp_path, "--worker", f'orders={sys.executable} -c "{WORKER}"') as dev:
        await dev.wait_ready()
        assert dev.ready["data_dir"] == str(tmp_path / "data")
        async with grpc.aio.insecure_channel(dev.ready["scheduler"]) as channel:
            await channel.channel_ready()
        address = dev.ready["address"]
        assert await dev.wait_line("orders    | address") == f"orders    | address {address}"
        dev.process.send_signal(signal.SIGINT)
        assert await dev.end() == 0
    assert f"broker    | data in {tmp_path}/data/broker" in dev.log
    order = [" ".join(dev.log).index(text) for text in ("stopped", "broker left")]
    assert order == sorted(order)


async def test_a_broker_that_dies_comes_back_at_the_same_address(tmp_path: Path):
    async with running(tmp_path) as dev:
        await dev.wait_ready()
        await dev.wait_line("workers    none")
        pid = broker_of(dev.process.pid)
        assert dev.events[0] == {"event": "started", "process": "broker", "pid": pid}
        os.kill(pid, signal.SIGKILL)
        await dev.wait_line("died")
        await dev.wait_line("broker    | data in")
        await dev.wait_line("connected")
        assert broker_of(dev.process.pid) != pid
        dev.process.terminate()
        assert await dev.end() == 0


async def test_a_dev_that_is_killed_takes_its_children_along(tmp_path: Path):
    async with running(tmp_path) as dev:
        await dev.wait_ready()
        pid = broker_of(dev.process.pid)
        descriptor = os.pidfd_open(pid)
        dev.process.kill()
        await gone(descriptor)


async def test_a_second_signal_means_now(tmp_path: Path):
    rude = script(
        tmp_path / "rude.sh", "#!/bin/sh\ntrap '' TERM\necho $$\nwhile :; do sleep 1; done"
    )
    async with running(tmp_path, "--worker", f"w={rude}") as dev:
        await dev.wait_ready()
        pid = int((await dev.wait_line("w         | ")).rpartition(" ")[2])
        descriptor = os.pidfd_open(pid)
        dev.process.send_signal(signal.SIGINT)
        await dev.wait_line("stopping")
        dev.process.send_signal(signal.SIGINT)
        assert await dev.end() == 130
        await gone(descriptor)


async def gone(descriptor: int) -> None:
    """Returns when the process of a pidfd has ended; closes it."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def test_a_broker_that_cannot_start_is_told(tmp_path: Path):
    broken = script(tmp_path / "broken", "#!/bin/sh\necho the disk is full >&2\nexit 4\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait_scheduler", "dev", "--data-dir", str(tmp_path / "data")),
        env={**os.environ, "PLAIT_BROKER": str(broken)},
        stderr=subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"the disk is full" in errors
    assert b"plait dev: the broker ended with code 4 before it was ready" in errors


def broker_of(parent: int) -> int:
    """The child that became the broker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = [
        int(pid) for pid in children if b"broker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--worker", "a=x", "--worker", "a=y"],
        ["--worker", "broker=x"],
        ["--worker", "a:1..2=x", "--worker", "a-2=y"],
        ["--worker", "a:0..2=x"],
        ["--processes", "3..2"],
        ["--processes", "1..101"],
        ["--processes", "many"],
        ["--nope"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_lines_stand_behind_the_name_of_their_process():
    out = io.StringIO()
    printer = Printer(out, ["a", "long"], colour=False)
    printer.line("a", "x")
    file = printer.file("long")
    file.write("half")
    file.write(" line\nnext\n")
    file.flush()
    assert out.getvalue() == "a    | x\nlong | half line\nlong | next\n"


def test_colour_is_for_terminals_only():
    out = io.StringIO()
    Printer(out, ["a"], colour=True).line("a", "x")
    assert out.getvalue() == "\x1b[36ma |\x1b[0m x\n"
    assert not wants_colour(out, {})
    terminal = type("Terminal", (io.StringIO,), {"isatty": lambda _: True})()
    assert wants_colour(terminal, {})
    assert not wants_colour(terminal, {"NO_COLOR": "1"})
    assert not wants_colour(terminal, {"TERM": "dumb"})


def test_a_line_without_end_does_not_fill_the_memory():
    buffer = LineBuffer()
    lines = buffer.feed(b"x" * (3 * LINE_MAX + 1))
    assert [len(line) for line in lines] == [LINE_MAX] * 3
    assert buffer.end() == ["x"]
    assert buffer.end() == []
