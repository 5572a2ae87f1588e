"""How large a broker may be: millions of tasks that wait.

    python -m tests.load.size                    ten million tasks, some ten minutes
    python -m tests.load.size --tasks 200000     a look

Fills a paused queue with tasks of 256 bytes over an empty broker of its own (PLAIT_BIN, best a
release build) and measures what they cost: memory and disk a task, what they leave of the rates of
submission and of dispatch, and how long a restart takes after kill -9. Prints JSON, and writes it
to build/load/size.json. Ratios are of this one run.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import plait
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.waiting import elapse

QUEUE = "echo.fail"
SIZE_BYTES = 256
DISPATCH_S = 10.0
"""How long the rate of dispatch is watched."""
SAMPLE = 200_000
"""Tasks over which the rate of submission is taken at the beginning and at the end."""
DAY_S = 86_400.0
Report = dict[str, Any]


def requests(count: int) -> Iterator[echo_pb2.FailRequest]:
    """Requests that a worker answers at once, of 256 bytes."""
    filling = "x" * (SIZE_BYTES - 12)
    for number in range(count):
        yield echo_pb2.FailRequest(message=f"{number:09d}{filling}")


async def fill(caller: Caller, count: int) -> float:
    """Submits so many tasks; answers how many a second were accepted."""
    began = time.monotonic()
    accepted = 0
    with plait.options(deadline=DAY_S):
        async for _ in caller.plait.submit_many(caller.echo.Fail, requests(count)):
            accepted += 1
    assert accepted == count
    return count / (time.monotonic() - began)


async def counts(caller: Caller) -> dict[int, int]:
    """Tasks of the queue by state."""
    queue = (await caller.tasks.GetQueue(api.GetQueueRequest(name=QUEUE))).queue
    return {entry.state: entry.count for entry in queue.counts}


async def dispatch(mesh: Mesh, caller: Caller) -> float:
    """Tasks of the queue that end in a second while a worker is at it; holds the queue again."""
    worker = await mesh.start_worker("python", concurrency=1024)
    before = (await counts(caller)).get(task_pb2.TASK_STATE_SUCCEEDED, 0)
    began = time.monotonic()
    await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name=QUEUE))
    await elapse(DISPATCH_S)
    after = (await counts(caller)).get(task_pb2.TASK_STATE_SUCCEEDED, 0)
    took = time.monotonic() - began
    await caller.tasks.PauseQueue(api.PauseQueueRequest(name=QUEUE))
    await worker.terminate()
    return (after - before) / took


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} is gone")


def disk_bytes(folder: Path) -> int:
    """What a folder takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@asynccontextmanager
async def caller_of(mesh: Mesh) -> AsyncIterator[Caller]:
    """A client whose method is announced and whose queue is held."""
    worker = await mesh.start_worker("python")
    await worker.terminate()
    async with mesh.caller() as caller:
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name=QUEUE))
        yield caller


async def restart(mesh: Mesh) -> float:
    """kill -9, and the seconds until it serves again."""
    assert mesh.broker is not None
    await mesh.broker.kill()
    began = time.monotonic()
    await mesh.start_broker()
    return time.monotonic() - began


async def measure(folder: Path, tasks: int) -> Report:
    """The whole run."""
    sample = min(SAMPLE, tasks // 2)
    report: Report = {"tasks": tasks, "size_bytes": SIZE_BYTES}
    settings = {"PLAIT_BROKER_QUEUE_TASKS_MAX": str(tasks + 10 * SAMPLE)}
    async with Mesh(folder, env=settings) as mesh, caller_of(mesh) as caller:
        assert mesh.broker is not None
        empty_memory = memory_bytes(mesh.broker.pid)
        report["submit_per_s_empty"] = round(await fill(caller, sample))
        report["dispatch_per_s_few"] = round(await dispatch(mesh, caller))
        done = (await counts(caller)).get(task_pb2.TASK_STATE_SUCCEEDED, 0)
        await fill(caller, tasks - (sample - done) - sample)
        report["submit_per_s_full"] = round(await fill(caller, sample))
        report["waiting"] = sum(
            count
            for state, count in (await counts(caller)).items()
            if state != task_pb2.TASK_STATE_SUCCEEDED
        )
        resident = memory_bytes(mesh.broker.pid)
        report["memory_mib"] = round(resident / 2**20)
        report["memory_bytes_per_task"] = round((resident - empty_memory) / tasks, 1)
        disk = disk_bytes(mesh.data_dir)
        report["disk_mib"] = round(disk / 2**20)
        report["disk_bytes_per_task"] = round(disk / tasks, 1)
        report["restart_s"] = round(await restart(mesh), 2)
        report["memory_mib_after_restart"] = round(memory_bytes(mesh.broker.pid) / 2**20)
        report["dispatch_per_s_full"] = round(await dispatch(mesh, caller))
    report["submit_ratio"] = round(report["submit_per_s_full"] / report["submit_per_s_empty"], 2)
    report["dispatch_ratio"] = round(
        report["dispatch_per_s_full"] / max(1, report["dispatch_per_s_few"]), 2
    )
    return report


def main() -> None:
    """Measures, prints, and keeps the report."""
    parser = argparse.ArgumentParser(description="Measure a broker with many tasks that wait.")
    parser.add_argument("--tasks", type=int, default=10_000_000)
    options = parser.parse_args()
    os.environ.setdefault("PLAIT_BIN", str(ROOT / "build/release"))
    target = ROOT / "build/load"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="size-", dir=target) as folder:
        report = asyncio.run(measure(Path(folder), options.tasks))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        check=True,
        text=True,
        capture_output=True,
    )
    report["commit"] = commit.stdout.strip()
    text = json.dumps(report, indent=2)
    (target / "size.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
