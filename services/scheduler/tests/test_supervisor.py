"""Processes are started again when they die, and stopped with all that they started."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plait_scheduler.domain.restart import RestartConfig
from plait_scheduler.loops.process import Process, ProcessSpec
from plait_scheduler.loops.supervisor import SupervisorConfig, SupervisorEvents, SupervisorLoop

ENVIRONMENT = {"PATH": os.environ["PATH"]}
QUICK = RestartConfig(first_ms=1, longest_ms=2, deaths_max=3)
# Says so once it listens to SIGTERM, and leaves in good order when it comes.
POLITE = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"leaving\\n"), os._exit(0)))
os.write(1, b"up\\n")
while True:
    signal.pause()
"""
RUDE = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"up\\n")
while True:
    signal.pause()
"""


class Watched:
    """A supervisor that runs, and what it tells."""

    def __init__(self, restart: RestartConfig = QUICK) -> None:
        self.lines: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.deaths: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.starts: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        events = SupervisorEvents(
            lambda name, line: self.lines.put_nowait((name, line)),
            lambda name, code: self.deaths.put_nowait((name, code)),
            lambda name, pid: self.starts.put_nowait((name, pid)),
        )
        self.loop = SupervisorLoop(SupervisorConfig(restart), events, lambda: 0.5)

    def add(self, name: str, *command: str, grace: float = 10) -> None:
        self.loop.add(ProcessSpec(name, command, ENVIRONMENT, grace))

    async def line(self) -> tuple[str, str]:
        async with asyncio.timeout(20):
            return await self.lines.get()

    async def death(self) -> tuple[str, int]:
        async with asyncio.timeout(20):
            return await self.deaths.get()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watched.loop.run())
        yield watched
        await watched.loop.end()
        running.cancel()


def alive(pid: int) -> bool:
    """Whether there is such a process, dead ones that nobody has waited for included."""
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int) -> None:
    """Returns when a process has ended, whoever's child it is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_what_dies_is_started_again(watched: Watched):
    watched.add("w", "/bin/sh", "-c", "echo hello; exit 3")
    for _ in range(3):
        assert await watched.line() == ("w", "hello")
        assert await watched.death() == ("w", 3)
    await watched.loop.stop("w")


async def test_a_process_that_is_killed_is_started_again(watched: Watched):
    watched.add("w", sys.executable, "-c", POLITE)
    assert await watched.line() == ("w", "up")
    first = watched.loop.pid("w")
    assert first is not None
    assert watched.starts.get_nowait() == ("w", first)
    os.kill(first, signal.SIGKILL)
    assert await watched.death() == ("w", -9)
    assert await watched.line() == ("w", "up")
    assert watched.loop.pid("w") != first
    await watched.loop.stop("w")


async def test_a_stop_is_polite(watched: Watched):
    watched.add("w", sys.executable, "-c", POLITE)
    await watched.line()
    pid = watched.loop.pid("w")
    assert pid is not None
    await watched.loop.stop("w")
    assert await watched.line() == ("w", "leaving")
    assert not alive(pid)
    assert watched.deaths.empty()


async def test_who_does_not_leave_is_killed(watched: Watched):
    watched.add("w", sys.executable, "-c", RUDE, grace=0.2)
    await watched.line()
    pid = watched.loop.pid("w")
    assert pid is not None
    await watched.loop.stop("w")
    assert not alive(pid)


async def test_the_whole_group_is_stopped(watched: Watched):
    watched.add("w", "/bin/sh", "-c", "sleep 1000 & echo $!; wait")
    _, child = await watched.line()
    await watched.loop.stop("w")
    await gone(int(child))


async def test_what_a_dead_process_left_behind_goes_too(watched: Watched):
    watched.add("w", "/bin/sh", "-c", "sleep 1000 & echo $!; exit 1")
    _, first = await watched.line()
    await watched.death()
    await gone(int(first))


async def test_a_new_spec_holds_from_the_next_start(watched: Watched):
    watched.add("w", sys.executable, "-c", POLITE)
    await watched.line()
    watched.add("w", "/bin/sh", "-c", "echo new; exec sleep 1000")
    pid = watched.loop.pid("w")
    assert pid is not None
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    assert await watched.line() == ("w", "new")


async def test_others_are_supervised_while_one_is_stopped(watched: Watched):
    watched.add("slow", sys.executable, "-c", RUDE, grace=30)
    assert await watched.line() == ("slow", "up")
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(watched.loop.stop("slow"))
        watched.add("w", "/bin/sh", "-c", "echo hello; exec sleep 1000")
        assert await watched.line() == ("w", "hello")
        assert not stopping.done()
        stopping.cancel()


async def test_lines_come_whole_and_the_last_one_without_its_end():
    lines: list[str] = []
    ended = asyncio.Event()
    command = ("/bin/sh", "-c", "printf 'a\\nb\\r\\n\\377'; printf 'err' >&2; exec >&- 2>&-")
    process = Process(ProcessSpec("p", command, ENVIRONMENT), lines.append, ended.set)
    await process.start()
    async with asyncio.timeout(20):
        await ended.wait()
        await process.kill()
    assert sorted(lines) == ["a", "b", "err", "\ufffd"]
    assert process.code == 0


async def test_a_program_that_is_not_there_is_an_error():
    process = Process(ProcessSpec("p", ("/nowhere/at-all",), {}), lambda _: None, lambda: None)
    with pytest.raises(FileNotFoundError):
        await process.start()
