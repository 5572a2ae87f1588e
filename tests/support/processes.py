"""Processes of the tests: started, ready, told to go, killed.

Every wait is bounded. What a process writes goes to a log file, whose end a failed test shows.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

READY_S = 30.0
"""A Python process imports gRPC and OpenTelemetry first, beside everything else on two cores."""
END_S = 20.0
_TAIL_BYTES = 6_000
# Runs a command that ends with its parent, so that a test run that is killed leaves nothing behind.
_CHILD = Path(__file__).parents[2] / "services/scheduler/src/plait_scheduler/dev/child.py"


class Process:
    """One process; made by `start`."""

    def __init__(self, name: str, child: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self.ready: dict[str, Any] = {}
        self._child = child
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], *, env: Mapping[str, str], log: Path
    ) -> Self:
        """Starts a command and waits for its readiness line, `{"event": "ready", ...}`.

        The variables are added to those of this process. Raises RuntimeError, with the end of its
        log, when it ends first or is not ready in time.
        """
        with log.open("ab") as errors:
            child = await asyncio.create_subprocess_exec(
                # Straight from here, since a fork of a process that uses gRPC may not run Python.
                *(sys.executable, "-S", str(_CHILD), str(os.getpid()), *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **env},
            )
        process = cls(name, child, log)
        try:
            async with asyncio.timeout(READY_S):
                process.ready = await process._readiness()
        except (TimeoutError, RuntimeError) as error:
            await process.kill()
            raise RuntimeError(f"{name} is not ready: {error}\n{process.tail()}") from error
        except BaseException:
            await process.kill()
            raise
        process._reader = asyncio.create_task(process._drain(), name=f"stdout of {name}")
        return process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.ready["address"])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.returncode is None

    async def kill(self) -> None:
        """kill -9, and waits for the end. Does nothing to a process that has ended."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> int:
        """SIGTERM; answers the exit code. A process that ignores it for 20 s is killed, and that is
        an error."""
        self.send(signal.SIGTERM)
        return await self.ended()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def ended(self) -> int:
        """Waits for the end, at most 20 s; answers the exit code."""
        try:
            async with asyncio.timeout(END_S):
                code = await self._child.wait()
        except TimeoutError:
            self._child.kill()
            await self._child.wait()
            raise AssertionError(f"{self.name} did not end in {END_S} s\n{self.tail()}") from None
        if self._reader is not None:
            await self._reader
        return code

    async def gone(self) -> None:
        """Waits for the end, for as long as it takes."""
        await self._child.wait()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    async def _readiness(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        while line := await self._child.stdout.readline():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == "ready":
                    return said
        raise RuntimeError(f"it ended with {await self._child.wait()}")

    async def _drain(self) -> None:
        assert self._child.stdout is not None
        while data := await self._child.stdout.read(65_536):
            with self.log.open("ab") as log:
                log.write(data)
