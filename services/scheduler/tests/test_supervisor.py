"""Processes are started again when they die, and stopped with all that they started."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plait_scheduler.domain.events import LostAttempts
from plait_scheduler.domain.processes import ProcessState
from plait_scheduler.domain.restart import RestartConfig
from plait_scheduler.domain.scaling import ScalingConfig
from plait_scheduler.loops.process import Process, ProcessSpec
from plait_scheduler.loops.scaled_worker import ScaledWorker
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


@contextlib.asynccontextmanager
async def watching(restart: RestartConfig) -> AsyncIterator[Watched]:
    watched = Watched(restart)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(watched.loop.run())
        yield watched
        await watched.loop.end()
        running.cancel()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with watching(QUICK) as watched:
        yield watched


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
    pid = watched.loop.pid("slow")
    assert pid is not None
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(watched.loop.stop("slow"))
        watched.add("w", "/bin/sh", "-c", "echo hello; exec sleep 1000")
        assert await watched.line() == ("w", "hello")
        assert not stopping.done()
        stopping.cancel()
    # Nobody is left behind, whoever was waited for.
    await gone(pid)


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


async def test_a_process_has_a_group_of_its_own_in_our_session():
    # Linux may share the processors out by session first, and then `nice` holds within one only.
    ended = asyncio.Event()
    process = Process(
        ProcessSpec("p", (sys.executable, "-c", RUDE), ENVIRONMENT), lambda _: None, ended.set
    )
    await process.start()
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert os.getsid(process.pid) == os.getsid(0)
    await process.kill()
    await ended.wait()


async def test_a_program_that_is_not_there_is_an_error():
    process = Process(ProcessSpec("p", ("/nowhere/at-all",), {}), lambda _: None, lambda: None)
    with pytest.raises(FileNotFoundError):
        await process.start()


# Says which life of which process it is.
NAMED = "echo $PLAIT_PROCESS; exec sleep 1000"


async def kill(watched: Watched, name: str) -> None:
    pid = watched.loop.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await watched.death() == (name, -9)


async def test_a_death_with_attempts_is_told_from_a_crash_loop(watched: Watched):
    watched.add("w", "/bin/sh", "-c", NAMED)
    worker = ""
    for deaths in range(1, 8):
        _, identity = await watched.line()
        await kill(watched, "w")
        assert len(identity) <= 31
        # As the SDKs make ids: Go's has a colon.
        worker = f"{identity}{'-:'[deaths % 2]}1a2b"
        assert watched.loop.owner(worker) == "w"
        told = LostAttempts(worker, 2, ("t1", f"t9{deaths}"))
        watched.loop.lost(told)
        # It is told of again by another figure, say, or of somebody else's.
        watched.loop.lost(told)
        watched.loop.lost(LostAttempts("host-1-1a2b", 1, ("t2",)))
        (shown,) = watched.loop.processes()
        assert (shown.name, shown.deaths_with_attempts, shown.exit_code) == ("w", deaths, -9)
        assert shown.state is not ProcessState.CRASH_LOOP
        assert shown.suspects == (("t1",) if deaths > 1 else ())
    await watched.loop.stop("w")
    assert watched.loop.owner(worker) == ""


async def test_attempts_may_be_told_lost_before_the_death_is_seen(watched: Watched):
    watched.add("w", "/bin/sh", "-c", NAMED)
    _, identity = await watched.line()
    watched.loop.lost(LostAttempts(f"{identity}-1", 1, ("t1",)))
    (shown,) = watched.loop.processes()
    assert (shown.state, shown.deaths_with_attempts) == (ProcessState.RUNNING, 0)
    await kill(watched, "w")
    (shown,) = watched.loop.processes()
    assert (shown.deaths, shown.deaths_with_attempts, shown.exit_code) == (1, 1, -9)
    await watched.loop.stop("w")


async def test_a_crash_loop_is_shown():
    async with watching(RestartConfig(first_ms=1, longest_ms=60_000, deaths_max=3)) as watched:
        watched.add("w", "/bin/sh", "-c", "exit 3")
        for _ in range(3):
            await watched.death()
        # It is started again in half a minute at the soonest.
        (shown,) = watched.loop.processes()
        assert (shown.state, shown.pid) == (ProcessState.CRASH_LOOP, 0)
        assert (shown.deaths, shown.deaths_with_attempts, shown.exit_code) == (3, 0, 3)


def scaled(watched: Watched, least: int, most: int) -> ScaledWorker:
    def spec(name: str) -> ProcessSpec:
        command = (sys.executable, "-c", POLITE)
        return ProcessSpec(name, command, ENVIRONMENT, grace_seconds=20, worker="w")

    return ScaledWorker("w", ScalingConfig(least, most), watched.loop, spec)


async def names(watched: Watched, count: int) -> set[str]:
    """Who says so many times that it is up."""
    return {(await watched.line())[0] for _ in range(count)}


async def test_a_worker_has_so_many_processes_as_are_wanted(watched: Watched):
    worker = scaled(watched, 1, 3)
    worker.scale(3)
    assert await names(watched, 3) == {"w-1", "w-2", "w-3"}
    # The newest goes, in good order.
    worker.scale(2)
    assert worker.count() == 2
    assert await watched.line() == ("w-3", "leaving")
    worker.scale(3)
    (name,) = await names(watched, 1)
    # It may be that the one before has not gone yet.
    assert name in ("w-3", "w-4")
    await worker.stop()
    assert worker.count() == 0
    assert {await watched.line() for _ in range(3)} == {
        (each, "leaving") for each in ("w-1", "w-2", name)
    }
    assert watched.loop.processes() == []
    assert watched.deaths.empty()


async def test_a_worker_of_one_process_has_its_name(watched: Watched):
    worker = scaled(watched, 1, 1)
    worker.scale(1)
    assert await names(watched, 1) == {"w"}
    await worker.stop()


async def test_a_worker_here_has_a_process(watched: Watched):
    with pytest.raises(ValueError, match="at least one process"):
        scaled(watched, 0, 1)
