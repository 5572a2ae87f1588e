"""The processes of a run: a broker, a scheduler, a worker, client drivers."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc

from interop.runner import wire
from plait.conformance.v1 import client_driver_pb2 as api
from plait.v1 import contract_service_pb2_grpc, task_service_pb2_grpc

ROOT = Path(__file__).parents[2]
LATER = ROOT / "build/later"
"""The later version of the contract, and what was built with it."""
READY_S = 60.0
"""A process may take so long to be ready beside others on two cores."""
END_S = 40.0
"""Longer than a worker's grace, which is 30 s."""


def binaries() -> Path:
    """Where the built processes are: PLAIT_BIN, else build/dev."""
    return Path(os.environ.get("PLAIT_BIN", ROOT / "build/dev")).resolve()


@dataclass(frozen=True, slots=True)
class Driver:
    """How a language's driver is started."""

    language: str
    command: tuple[str, ...]
    server: tuple[str, ...] = ()
    """The plain server that the worker stands before; (): none."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables beside our own."""


def driver(language: str) -> Driver:
    """The driver of a language, the reference peers, or the sidecar before a plain server.

    `--client` makes a language's driver a client; otherwise it is a worker.
    """
    if language == "python":
        script = str(ROOT / "interop/drivers/python/echo_worker.py")
        return Driver(language, (sys.executable, script))
    if language == "reference":
        return Driver(language, (sys.executable, "-m", "interop.reference"))
    if language == "sidecar":
        script = str(ROOT / "interop/drivers/plain/plain_echo.py")
        return Driver(language, (str(binaries() / "plait-sidecar"),), (sys.executable, script))
    return Driver(language, (str(binaries() / f"echo-worker-{language}"),))


def later_driver(language: str) -> Driver:
    """The same with the code of a later version of the contract (.ci/later.sh)."""
    earlier = driver(language)
    if language == "python":
        return replace(earlier, env={"PYTHONPATH": str(LATER / "python")})
    if language == "sidecar":
        return replace(earlier, server=(*earlier.server, "--contracts", str(LATER / "proto")))
    return replace(earlier, command=(str(LATER / f"echo-worker-{language}"),))


class Process:
    """A process that says when it is ready."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path) -> None:
        self._child = child
        self._log = log
        self.ready: dict[str, Any] = {}
        self._drain: asyncio.Task[bytes] | None = None

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], log: Path) -> "Process":
        """Starts it and waits for its line {"event": "ready"}. Raises RuntimeError."""
        process = cls(await spawn(command, env, log), log)
        try:
            async with asyncio.timeout(READY_S):
                await process._readiness()
        except BaseException:
            await process.kill()
            raise
        assert process._child.stdout is not None
        process._drain = asyncio.create_task(process._child.stdout.read())
        return process

    async def _readiness(self) -> None:
        assert self._child.stdout is not None
        while line := await self._child.stdout.readline():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == "ready":
                    self.ready = said
                    return
        raise RuntimeError(f"it ended before it was ready\n{self._log.read_text()[-4000:]}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def kill(self) -> None:
        """kill -9, and waits for the end."""
        self.send(signal.SIGKILL)
        await self._child.wait()

    async def terminate(self) -> int:
        """SIGTERM; answers the exit code."""
        self.send(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Waits until it has ended; answers the exit code. Raises TimeoutError."""
        async with asyncio.timeout(END_S):
            return await self._child.wait()


async def spawn(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    stdin: int = asyncio.subprocess.DEVNULL,
) -> asyncio.subprocess.Process:
    """Starts a command, with variables beside our own; its standard error goes to a file."""
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **env},
            cwd=ROOT,
        )


class Client:
    """A language's client: a process that does what it is asked, many things side by side."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self._waiting: dict[int, asyncio.Future[api.ClientResponse]] = {}
        self._next = 0
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, spec: Driver, address: str, log: Path) -> "Client":
        """Starts a driver as a client of the mesh at an address."""
        command = (*spec.command, "--client")
        env = {**spec.env, "PLAIT_ADDRESS": address}
        return cls(await spawn(command, env, log, asyncio.subprocess.PIPE))

    async def ask(
        self, request: api.ClientRequest
    ) -> tuple[int, asyncio.Future[api.ClientResponse]]:
        """Sends a request under the next id; the answer comes when it comes."""
        self._next += 1
        request.id = self._next
        answer: asyncio.Future[api.ClientResponse] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = answer
        assert self._child.stdin is not None
        self._child.stdin.write(wire.framed(request))
        await self._child.stdin.drain()
        return request.id, answer

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process, unless it has ended."""
        if self._child.returncode is None:
            self._child.send_signal(number)

    async def close(self) -> None:
        """Ends the process."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await self._child.wait()
        except TimeoutError:
            self._child.kill()
            await self._child.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._child.stdout is not None
        try:
            while (answer := await wire.read(self._child.stdout, api.ClientResponse())) is not None:
                waiting = self._waiting.pop(answer.id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(RuntimeError("the client's process ended"))


class Mesh:
    """A broker, a scheduler and a worker of one language; or, of none, what is started."""

    def __init__(self, folder: Path, worker: Driver | None) -> None:
        self.address = "127.0.0.1:0"
        self._folder = folder
        self._spec = worker
        self._name = worker.language if worker else "any"
        home = str(folder / self._name)
        self._env = {"XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
        self._broker: Process | None = None
        self._scheduler: Process | None = None
        self._server: Process | None = None
        self._workers: list[Process] = []
        self._stopping: list[Process] = []
        self._beside: list[Process] = []
        self._channel: grpc.aio.Channel | None = None
        self._settings: dict[str, str] = {}
        self._broker_changed = self._workers_changed = False

    async def __aenter__(self) -> "Mesh":
        try:
            await self.start_broker()
            scheduler = (sys.executable, "-m", "plait_scheduler", "--listen", "127.0.0.1:0")
            self._scheduler = await self._start(scheduler, "scheduler")
            if self._spec is not None:
                await self.start_worker()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends everything."""
        if self._channel is not None:
            await self._channel.close()
        for process in (
            *self._workers,
            *self._stopping,
            *self._beside,
            self._server,
            self._scheduler,
            self._broker,
        ):
            if process is not None:
                await process.kill()

    def tasks(self) -> "task_service_pb2_grpc.TaskServiceAsyncStub":
        """The broker's task service, as the runner itself sees it."""
        return task_service_pb2_grpc.TaskServiceStub(self._dialled())

    def contracts(self) -> "contract_service_pb2_grpc.ContractServiceAsyncStub":
        """Its contract service."""
        return contract_service_pb2_grpc.ContractServiceStub(self._dialled())

    def _dialled(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.address)
        return self._channel

    async def start_broker(self) -> None:
        """Starts the broker, later on the same address over the same data."""
        program = str(binaries() / "plait-broker")
        command = (program, "--listen", self.address, "--data-dir", str(self._data()))
        if self._broker is not None:
            await self._broker.ended()
        self._broker = await self._start(command, "broker", self._settings)
        self.address = self._broker.ready["address"]
        self._broker_changed = bool(self._settings)

    async def restart_broker(self, **settings: object) -> None:
        """kill -9, and starts it again; with these settings, and the others as they always are."""
        assert self._broker is not None
        await self._broker.kill()
        self._settings = {f"PLAIT_BROKER_{key.upper()}": str(it) for key, it in settings.items()}
        await self.start_broker()

    async def stop_broker(self) -> None:
        """SIGTERM, and does not wait: it goes on until what runs has ended, for a while."""
        assert self._broker is not None
        self._broker_changed = True
        self._broker.send(signal.SIGTERM)

    async def wipe_broker(self) -> None:
        """kill -9, and another one without its data takes its place."""
        assert self._broker is not None
        await self._broker.kill()
        shutil.rmtree(self._data())
        await self.start_broker()

    async def restore(self) -> None:
        """The next case finds a broker and a worker as they always are."""
        if self._broker_changed:
            await self.restart_broker()
        if self._workers_changed or self._stopping or len(self._workers) != 1:
            await self.kill_workers()
            await self.start_worker()

    def _data(self) -> Path:
        return self._folder / f"broker-{self._name}"

    async def start_worker(self, slots: int | None = None) -> None:
        """Starts one more worker and waits until it is attached; slots: attempts at once."""
        assert self._spec is not None
        command = self._spec.command
        if slots is not None:
            command += ("--concurrency", str(slots))
            self._workers_changed = True
        if self._spec.server:
            if self._server is None:
                self._server = await self._start(self._spec.server, "server")
            command += ("--target", self._server.ready["address"])
        self._workers.append(await self._start(command, "worker"))

    async def start_beside(self, spec: Driver, name: str) -> Process:
        """Starts a worker of any kind, whose id begins with a name; `stop` ends it, too."""
        command, env = spec.command, {**spec.env, "PLAIT_PROCESS": name}
        if spec.server:
            server = await self._start(spec.server, name, env)
            self._beside.append(server)
            command += ("--target", server.ready["address"])
        worker = await self._start(command, name, env)
        self._beside.append(worker)
        return worker

    async def kill_workers(self) -> None:
        """kill -9 to all of them."""
        while gone := self._workers or self._stopping:
            await gone.pop().kill()
        self._workers_changed = False

    async def drain_workers(self) -> None:
        """SIGTERM to all of them; each ends well once its attempts have ended."""
        await self.stop_workers()
        await self.stopped_workers()

    async def stop_workers(self) -> None:
        """SIGTERM to all of them, and does not wait."""
        self.signal_workers(signal.SIGTERM)
        self._stopping += self._workers
        self._workers = []
        self._workers_changed = False

    async def stopped_workers(self) -> None:
        """Waits for those that were told to stop: each ends well once its attempts have ended."""
        while self._stopping:
            code = await self._stopping.pop().ended()
            if code != 0:
                raise AssertionError(f"a worker that was told to stop ended with {code}")

    def signal_workers(self, number: signal.Signals) -> None:
        """Sends a signal to all of them."""
        for worker in self._workers:
            worker.send(number)

    async def _start(
        self, command: Sequence[str], name: str, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Process:
        env = {**self._env, "PLAIT_ADDRESS": self.address, **settings}
        log = self._folder / f"{self._name}-{name}.log"
        return await Process.start(command, env, log)
