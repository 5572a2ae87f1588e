"""One child process in a group of its own, its output as lines."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from plait_scheduler.lines import LineBuffer

# What a killed group needs to be gone.
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run."""

    # For people: the prefix of its lines.
    name: str
    # Program and arguments.
    command: Sequence[str]
    # Its whole environment.
    environment: Mapping[str, str] = field(default_factory=dict)
    # How long it may take to end after SIGTERM.
    grace_seconds: float = 30.0
    # The worker that it is one of the processes of; "": of none.
    worker: str = ""


class Process(asyncio.SubprocessProtocol):
    """A running process. `on_line` gets each line of stdout and stderr as it comes."""

    def __init__(
        self, spec: ProcessSpec, on_line: Callable[[str], None], on_exit: Callable[[], None]
    ) -> None:
        self.spec = spec
        self._on_line = on_line
        self._on_exit = on_exit
        self._buffers = {1: LineBuffer(), 2: LineBuffer()}
        self._transport: asyncio.SubprocessTransport | None = None
        self._exited = asyncio.Event()
        self._silent = asyncio.Event()
        self._group = 0

    async def start(self) -> None:
        """Starts it. Raises OSError where it cannot."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.subprocess_exec(
            lambda: self,
            *self.spec.command,
            env=dict(self.spec.environment),
            stdin=asyncio.subprocess.DEVNULL,
            # The terminal's Ctrl-C is for us; they are stopped in order. No session of its own:
            # Linux may share processors out by session, and `nice` then holds within one only.
            process_group=0,
        )
        self._group = self._transport.get_pid()

    @property
    def pid(self) -> int:
        """Also the id of its group."""
        return self._group

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs, negative for a signal."""
        return self._transport.get_returncode() if self._transport else None

    async def stop(self) -> bool:
        """SIGTERM to the group, SIGKILL after the grace, or where it is cancelled before. Returns
        whether it ended in time."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.grace_seconds):
                await self._gone()
        except TimeoutError:
            in_time = False
        except asyncio.CancelledError:
            # Nobody would know of it any more.
            self.signal(signal.SIGKILL)
            self._close()
            raise
        else:
            in_time = True
        # Also those that write elsewhere, of which nobody knows when they end.
        await self.kill()
        return in_time

    async def kill(self) -> None:
        """Ends the whole group now."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await self._gone()
        self._close()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        for line in self._buffers[fd].feed(data):
            self._on_line(line)

    def pipe_connection_lost(self, fd: int, _: Exception | None) -> None:
        for line in self._buffers.pop(fd).end():
            self._on_line(line)
        if not self._buffers:
            self._silent.set()

    def process_exited(self) -> None:
        self._exited.set()
        self._on_exit()

    async def _gone(self) -> None:
        """Returns when the process has ended, and all of its group that write where it does."""
        await self._exited.wait()
        await self._silent.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the whole group, if there is still one."""
        # Group 0 would be our own.
        if self._group > 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, number)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
