"""What several campaigns set up."""

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from plait.v1 import task_service_pb2 as api
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.processes import Process

ASK_S = 60.0


async def start_fault_worker(mesh: Mesh, env: Mapping[str, str] | None = None) -> Process:
    """A worker of fault.proto; its journal is `journal.tsv` in the folder of the mesh."""
    journal = str(mesh.folder / "journal.tsv")
    command = [sys.executable, "-m", "tests.fault.worker", journal]
    return await mesh.start("fault", command, {"PYTHONPATH": str(ROOT), **(env or {})})


async def attached_workers(caller: Caller) -> int:
    """How many echo workers are attached."""
    asked = api.GetQueueRequest(name="echo.append")
    queue = await caller.tasks.GetQueue(asked, wait_for_ready=True, timeout=ASK_S)
    return queue.queue.worker_count


@contextlib.asynccontextmanager
async def supervised(start: Callable[[], Awaitable[Process]]) -> AsyncIterator[None]:
    """A process that is started again whenever it dies."""

    async def again() -> None:
        while True:
            # It may take poison and die of it before it has said that it is ready.
            with contextlib.suppress(RuntimeError):
                await (await start()).gone()

    supervising = asyncio.ensure_future(again())
    try:
        yield
    finally:
        supervising.cancel()
        await asyncio.wait([supervising])


def fixed_address() -> str:
    """A free address below the ports that the system gives to clients.

    While the broker is down, a client that dials a port of that range over and over may get the
    very port for its own end, connect to itself, and keep the broker from coming back.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{port}"
    raise RuntimeError("no port is free")


def new_folder(folder: Path) -> Path:
    """Makes it."""
    folder.mkdir()
    return folder


def resident_bytes(pid: int) -> int:
    """The memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
