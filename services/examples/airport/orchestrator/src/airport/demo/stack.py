"""The processes of the demo: the reference service, and `plait dev`, which starts the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from airport.data import data_dir

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

START_SECONDS = 60
STOP_SECONDS = 60
LINE_BYTES_MAX = 1 << 20


class StackError(Exception):
    """A process did not come up; the text says which and where its output is."""


@dataclass
class Stack:
    """Everything that runs: `binaries` is where the programs are, `folder` where all data goes."""

    binaries: Path
    folder: Path
    tariff: Path
    latency: str
    fail_permille: int
    address: str = ""
    pids: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    """How often each process was started."""
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)
    _started: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Self:
        try:
            reference = await self._start_reference()
            ready = await self._start("plait dev", self._dev(reference))
        except BaseException:
            await self._stop()
            raise
        self.address = ready["address"]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    def kill(self, name: str) -> int:
        """kill -9 to a process; it gets no chance to say goodbye. Returns its process id."""
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    async def started_again(self, name: str, starts: int) -> None:
        """Waits until a process was started more than `starts` times."""
        async with self._started:
            await self._started.wait_for(lambda: self.starts.get(name, 0) > starts)

    async def _start_reference(self) -> str:
        command = [
            str(self.binaries / "reference"),
            *("--listen", "127.0.0.1:0", "--data", str(data_dir())),
            *("--latency", self.latency, "--fail-permille", str(self.fail_permille)),
        ]
        ready = await self._start("reference", command)
        return f"http://{ready['address']}"

    def _dev(self, reference: str) -> list[str]:
        """The command line of `plait dev`."""
        workers = {
            "orchestrator": [sys.executable, "-m", "airport.worker"],
            "enrichment": [str(self.binaries / "enrichment"), "--reference", reference],
            "ledger": [
                str(self.binaries / "airport-ledger"),
                *("--tariff", str(self.tariff), "--ledger", str(self.folder / "ledger.sqlite")),
            ],
        }
        command = [sys.executable, "-m", "plait.cli", "dev"]
        command += ["--listen", "127.0.0.1:0", "--data-dir", str(self.folder / "plait")]
        for name, argv in workers.items():
            command += ["--worker", f"{name}={shlex.join(argv)}"]
        return command

    async def _start(self, name: str, command: list[str]) -> dict[str, Any]:
        """Starts a process and waits until it says that it is ready."""
        log = self.folder / f"{name.replace(' ', '-')}.log"
        environment = {**os.environ, "PLAIT_BROKER": str(self.binaries / "plait-broker")}
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environment,
                limit=LINE_BYTES_MAX,
            )
        self._processes.append(process)
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._readers.append(asyncio.create_task(self._read(process, ready)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await asyncio.wait({ready})
        if not ready.done() or ready.cancelled():
            raise StackError(f"{name} did not come up; see {log}")
        return ready.result()

    async def _read(
        self, process: asyncio.subprocess.Process, ready: asyncio.Future[dict[str, Any]]
    ) -> None:
        """Follows the events that a process writes, a line of JSON each."""
        assert process.stdout is not None
        async for line in process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "started":
                    await self._saw_start(event["process"], event["pid"])
                elif event.get("event") == "ready" and not ready.done():
                    ready.set_result(event)
        ready.cancel()

    async def _saw_start(self, name: str, pid: int) -> None:
        async with self._started:
            self.pids[name] = pid
            self.starts[name] = self.starts.get(name, 0) + 1
            self._started.notify_all()

    async def _stop(self) -> None:
        """Asks every process to drain, the last one first, and kills what does not."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)
