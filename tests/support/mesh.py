"""A mesh of real processes on this machine: a broker, a scheduler, workers, and those who call."""

import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

import plait
from plait.v1 import task_pb2, task_service_pb2_grpc
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2_grpc
from tests.support.processes import Process

ROOT = Path(__file__).parents[2]
LANGUAGES = ("python", "go", "rust")
"""Of the workers that the campaigns of faults kill."""
WORKER_LANGUAGES = (*LANGUAGES, "typescript")
"""Of all echo workers."""


def binaries() -> Path:
    """Where the built processes are: PLAIT_BIN, else build/dev."""
    return Path(os.environ.get("PLAIT_BIN", ROOT / "build/dev")).resolve()


@dataclass(frozen=True)
class Caller:
    """Who uses the mesh: a client, and the stubs that the tests need."""

    plait: plait.Client
    echo: "echo_pb2_grpc.EchoServiceAsyncStub"
    """Over the durable channel: each call is a task."""
    tasks: "task_service_pb2_grpc.TaskServiceAsyncStub"
    """The task service itself."""

    async def get(self, task_id: str, *, full: bool = False) -> task_pb2.Task:
        """A task as the broker shows it."""
        view = task_pb2.TASK_VIEW_FULL if full else task_pb2.TASK_VIEW_BASIC
        return (await self.tasks.GetTask(api.GetTaskRequest(id=task_id, view=view))).task

    async def list(self, where: str, page_size: int = 1000) -> list[task_pb2.Task]:
        """All tasks that a filter finds, newest first."""
        found: list[task_pb2.Task] = []
        token = ""
        while True:
            request = api.ListTasksRequest(filter=where, page_size=page_size, page_token=token)
            page = await self.tasks.ListTasks(request)
            found += page.tasks
            token = page.next_page_token
            if not token:
                return found


class Mesh:
    """Processes that share a folder and an address; `stop` ends them all."""

    def __init__(
        self,
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        broker_args: tuple[str, ...] = (),
        address: str = "127.0.0.1:0",
        data_dir: Path | None = None,
        under: Sequence[str] = (),
    ) -> None:
        """`env`: variables of every process; `broker_args`: flags of the broker; `address`: where
        the broker listens, kept over its restarts; `data_dir`: default `broker` in the folder;
        `under`: the first broker's, as in `start_broker`."""
        self.folder = folder
        self.address = address
        self.broker: Process | None = None
        self.scheduler: Process | None = None
        self.workers: list[Process] = []
        self.processes: list[Process] = []
        self._env = {**(env or {}), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self.data_dir = data_dir or folder / "broker"
        """Where the broker keeps its data."""
        self._broker_args = broker_args
        self._under = under
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        try:
            await self.start_broker(under=self._under)
            await self.start_scheduler()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Kills what still runs."""
        for process in self.processes:
            await process.kill()

    async def start_broker(
        self, env: Mapping[str, str] | None = None, *, under: Sequence[str] = ()
    ) -> Process:
        """Starts the broker: the first time on any port, later on the same, over the same data.

        `under`: a command that runs it, such as `env`.
        """
        command = [*under, str(binaries() / "plait-broker"), "--listen", self.address]
        command += ["--data-dir", str(self.data_dir), *self._broker_args]
        self.broker = await self.start("broker", command, env)
        self.address = self.broker.ready["address"]
        return self.broker

    async def start_scheduler(self, *arguments: str) -> Process:
        """Starts a scheduler and waits until it leads, or stands by for one that lives."""
        command = [sys.executable, "-m", "plait_scheduler", "--listen", "127.0.0.1:0", *arguments]
        self.scheduler = await self.start("scheduler", command)
        return self.scheduler

    async def start_worker(
        self, language: str, *, concurrency: int = 64, env: Mapping[str, str] | None = None
    ) -> Process:
        """Starts an echo worker and waits until it is attached."""
        command = [str(binaries() / f"echo-worker-{language}")]
        if language == "python":
            command = [sys.executable, str(ROOT / "interop/drivers/python/echo_worker.py")]
        command += ["--concurrency", str(concurrency)]
        worker = await self.start(language, command, env)
        self.workers.append(worker)
        return worker

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        """A client of the mesh."""
        async with (
            plait.connect(self.address) as client,
            grpc.aio.insecure_channel(self.address) as channel,
        ):
            echo = echo_pb2_grpc.EchoServiceStub(client.channel())
            yield Caller(client, echo, task_service_pb2_grpc.TaskServiceStub(channel))

    async def start(
        self, name: str, command: list[str], env: Mapping[str, str] | None = None
    ) -> Process:
        """Starts any process of the mesh, with PLAIT_ADDRESS, and waits until it is ready."""
        log = self.folder / f"{next(self._numbers)}-{name}.log"
        together = {**self._env, "PLAIT_ADDRESS": self.address, **(env or {})}
        process = await Process.start(name, command, env=together, log=log)
        self.processes.append(process)
        return process
