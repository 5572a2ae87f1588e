"""The command `plait bench`."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc

import plait
from plait import _wire
from plait._processes import Process
from plait.cli import _bench_contract
from plait.cli._api import describe, exit_code
from plait.cli._command import Exit, split_method
from plait.testing import Mesh
from plait.v1 import task_service_pb2, task_service_pb2_grpc

_START_S = 30.0
_STOP_S = 10.0
# Tasks before the clock starts: connections, imports, caches.
_WARM_UP = 2000


@dataclass(frozen=True, slots=True)
class Load:
    """What is done."""

    tasks: int
    size: int
    window: int
    calls: int
    workers: int
    concurrency: int
    method: str | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    tasks_per_s: float
    p50_ms: float
    p99_ms: float
    # Whether the broker syncs what it acknowledges, by its own word.
    synced: bool


def run(load: Load, address: str | None, sync: str, *, as_json: bool) -> None:
    """Measures and prints."""
    try:
        _run(load, address, sync, as_json=as_json)
    except grpc.aio.AioRpcError as error:
        click.echo(describe(error), err=True)
        raise SystemExit(int(exit_code(error))) from None
    except (FileNotFoundError, RuntimeError) as error:
        click.echo(f"cannot start: {error}", err=True)
        raise SystemExit(int(Exit.UNREACHABLE)) from None


def _run(load: Load, address: str | None, sync: str, *, as_json: bool) -> None:
    with contextlib.ExitStack() as exits:
        where = address
        if where is None:
            where = exits.enter_context(_own_mesh(sync)).address
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="plait-bench-")))
        for number in range(load.workers):
            exits.enter_context(_worker(where, load.concurrency, folder / f"worker-{number}.log"))
        figures = asyncio.run(_measure(where, load))
    _print(load, figures, as_json=as_json)


@contextlib.contextmanager
def _own_mesh(sync: str) -> Iterator[Mesh]:
    # Where data of users is, since a folder for temporary files may be in memory.
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "plait"
    home.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=home) as folder,
        Mesh(Path(folder), broker_arguments=["--sync", sync]) as mesh,
    ):
        yield mesh


@contextlib.contextmanager
def _worker(address: str, concurrency: int, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "plait.cli._bench_worker", address, str(concurrency)]
    process = Process("bench worker", command, log)
    try:
        process.wait_ready(_START_S)
        yield
    finally:
        process.terminate(_STOP_S)


async def _measure(address: str, load: Load) -> Figures:
    service, method = split_method(load.method or _bench_contract.METHOD)
    async with plait.connect(address) as client:
        call = _bench_contract.multicallable(client.channel(), f"/{service}/{method}")
        request = _bench_contract.echo_class()(payload=os.urandom(load.size))
        await _bulk(client, call, request, min(_WARM_UP, load.tasks), load.window)
        seconds = await _bulk(client, call, request, load.tasks, load.window)
        waits = sorted([await _one(call, request) for _ in range(load.calls)])
    return Figures(
        tasks_per_s=round(load.tasks / seconds, 1),
        p50_ms=round(_quantile(waits, 0.5) * 1000, 3),
        p99_ms=round(_quantile(waits, 0.99) * 1000, 3),
        synced=await _synced(address),
    )


async def _synced(address: str) -> bool:
    """What the broker says in the welcome of a session."""
    async with _wire.open_channel(address) as channel:
        stream = task_service_pb2_grpc.TaskServiceStub(channel).SubmitStream(wait_for_ready=True)
        hello = task_service_pb2.SessionHello(session=os.urandom(16), client=_wire.CLIENT)
        await stream.write(task_service_pb2.SubmitStreamRequest(hello=hello))
        first = await stream.read()
        stream.cancel()
    # Read to its end, a stream raises its status: there is a first message.
    assert isinstance(first, task_service_pb2.SubmitStreamResponse)
    return first.welcome.synced


async def _bulk(client: plait.Client, call: Any, request: Any, count: int, window: int) -> float:
    """Seconds for so many tasks, from the first submission to the last result."""
    begin = time.perf_counter()
    async for _ in client.call_many(call, (request for _ in range(count)), window=window):
        pass
    return time.perf_counter() - begin


async def _one(call: Any, request: Any) -> float:
    begin = time.perf_counter()
    await call(request)
    return time.perf_counter() - begin


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _print(load: Load, figures: Figures, *, as_json: bool) -> None:
    if as_json:
        said = {
            "language": "python",
            "tasks_per_s": figures.tasks_per_s,
            "p50_ms": figures.p50_ms,
            "p99_ms": figures.p99_ms,
            "synced": figures.synced,
            "tasks": load.tasks,
            "size": load.size,
        }
        click.echo(json.dumps(said))
        return
    words = {
        True: "yes: nothing is acknowledged before it is on the disk",
        False: "no: the operating system writes when it likes",
    }
    click.echo(f"throughput  {figures.tasks_per_s:,.0f} tasks/s")
    click.echo(f"one at a time  p50 {figures.p50_ms:.2f} ms, p99 {figures.p99_ms:.2f} ms")
    click.echo(f"load  {load.tasks:,} tasks of {load.size} B, {load.window:,} under way")
    click.echo(f"synced  {words[figures.synced]}")
