"""How large a broker may be: millions of tasks that wait.

    python -m tests.load.size                    ten million tasks, some ten minutes
    python -m tests.load.size --tasks 200000     a look

Fills a paused queue with tasks of 256 bytes over an empty broker of its own (PLAIT_BIN, best a
release build) and measures what they cost: memory and disk a task, what they leave of the rates of
submission and of dispatch, and how long a restart takes after kill -9. Then has them all done, and
waits until their results are past retention and the disk is given back. Ratios are of this one run.
It is a campaign like those of tests/fault: its result is a violation when a mark does not hold.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import plait
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2
from tests.fault.command import run
from tests.fault.outcome import Outcome
from tests.support.mesh import ROOT, Caller, Mesh, binaries
from tests.support.processes import Process
from tests.support.waiting import elapse

QUEUE = "echo"
SIZE_BYTES = 256
SAMPLE = 500_000
"""Tasks over which a rate is taken."""
DISPATCH_S = 120.0
"""A rate of dispatch that takes longer to find is none."""
COMPACT_S = 300.0
"""How long the broker has to give back the disk once all is done; results are kept for 30 s."""
LEFT_BYTES = 1 << 30
"""A directory below this is given back: the log since the snapshot before the last, and spares."""
MEMORY_MIB_MAX = 1536
"""With ten million tasks."""
RATIO_MIN = 0.7
"""Of the rates of an empty broker."""
RESTART_S_MAX = 20.0
PROBE_S = 0.01
Report = dict[str, Any]


async def fill(mesh: Mesh, count: int) -> float:
    """Submits so many tasks from a Rust client; answers how many a second were accepted."""
    command = [str(binaries() / "plait-bench-rust"), "--role", "fill"]
    command += ["--tasks", str(count), "--size", str(SIZE_BYTES)]
    client = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PLAIT_ADDRESS": mesh.address},
    )
    line, _ = await client.communicate()
    if client.returncode != 0:
        raise RuntimeError(f"the client ended with {client.returncode}")
    return float(json.loads(line)["tasks_per_s"])


async def start_worker(mesh: Mesh) -> Process:
    """A Rust worker that answers at once."""
    return await mesh.start("worker", [str(binaries() / "plait-bench-rust"), "--role", "worker"])


async def probe(caller: Caller, until: asyncio.Event) -> list[float]:
    """How long single submissions take meanwhile, ms."""
    found: list[float] = []
    with plait.options(delay=3_600):
        while not until.is_set():
            began = time.monotonic()
            await caller.plait.submit(caller.echo.Sleep, echo_pb2.SleepRequest())
            found.append(1_000 * (time.monotonic() - began))
            await elapse(PROBE_S)
    return sorted(found)


async def counts(caller: Caller) -> dict[int, int]:
    """Tasks of the queue by state."""
    queue = (await caller.tasks.GetQueue(api.GetQueueRequest(name=QUEUE))).queue
    return {entry.state: entry.count for entry in queue.counts}


async def unfinished(caller: Caller) -> int:
    """Tasks of the queue that have not ended."""
    ended = task_pb2.TASK_STATE_SUCCEEDED
    return sum(count for state, count in (await counts(caller)).items() if state != ended)


async def dispatch(mesh: Mesh, caller: Caller, tasks: int, within: float = DISPATCH_S) -> float:
    """Has a worker do so many tasks of the queue, which is held before and after; answers how many
    ended in a second."""
    worker = await start_worker(mesh)
    before = await unfinished(caller)
    began = time.monotonic()
    await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name=QUEUE))
    async with asyncio.timeout(within):
        while (left := await unfinished(caller)) > max(0, before - tasks):
            await elapse(0.02)
    took = time.monotonic() - began
    await caller.tasks.PauseQueue(api.PauseQueueRequest(name=QUEUE))
    await worker.terminate()
    return (before - left) / took


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} is gone")


def disk_bytes(folder: Path) -> int:
    """What a folder takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def restart(mesh: Mesh) -> float:
    """kill -9, and the seconds until it serves again."""
    assert mesh.broker is not None
    await mesh.broker.kill()
    began = time.monotonic()
    await mesh.start_broker()
    return time.monotonic() - began


async def compaction(mesh: Mesh) -> float:
    """The seconds until the directory is small again."""
    began = time.monotonic()
    async with asyncio.timeout(COMPACT_S):
        while disk_bytes(mesh.data_dir) > LEFT_BYTES:
            await elapse(1.0)
    return time.monotonic() - began


async def measure(folder: Path, tasks: int) -> Report:
    """The whole run."""
    sample = min(SAMPLE, tasks // 3)
    last = tasks // 5  # long enough to hold its share of snapshots
    report: Report = {"tasks": tasks, "size_bytes": SIZE_BYTES}
    settings = {"PLAIT_BROKER_QUEUE_TASKS_MAX": str(tasks + SAMPLE)}
    async with Mesh(folder, env=settings) as mesh, mesh.caller() as caller:
        assert mesh.broker is not None
        worker = await start_worker(mesh)  # announces the contract
        await worker.terminate()
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name=QUEUE))
        empty_memory = memory_bytes(mesh.broker.pid)
        report["submit_per_s_empty"] = round(await fill(mesh, sample))
        report["dispatch_per_s_few"] = round(await dispatch(mesh, caller, sample))
        filled = asyncio.Event()
        probing = asyncio.create_task(probe(caller, filled))
        await fill(mesh, tasks - last - await unfinished(caller))
        filled.set()
        waits = await probing
        report["submit_p50_ms_meanwhile"] = round(waits[len(waits) // 2], 1)
        report["submit_max_ms_meanwhile"] = round(waits[-1], 1)
        report["submit_per_s_full"] = round(await fill(mesh, last))
        report["waiting"] = await unfinished(caller)
        resident = memory_bytes(mesh.broker.pid)
        report["memory_mib"] = round(resident / 2**20)
        report["memory_bytes_per_task"] = round((resident - empty_memory) / tasks, 1)
        disk = disk_bytes(mesh.data_dir)
        report["disk_mib"] = round(disk / 2**20)
        report["disk_bytes_per_task"] = round(disk / tasks, 1)
        report["restart_s"] = round(await restart(mesh), 2)
        report["memory_mib_after_restart"] = round(memory_bytes(mesh.broker.pid) / 2**20)
        report["dispatch_per_s_full"] = round(await dispatch(mesh, caller, last))
        report["dispatch_per_s_all"] = round(await dispatch(mesh, caller, tasks, within=600.0))
        report["memory_mib_done"] = round(memory_bytes(mesh.broker.pid) / 2**20)
        report["compaction_s"] = round(await compaction(mesh))
        report["disk_mib_compacted"] = round(disk_bytes(mesh.data_dir) / 2**20)
        report["memory_mib_compacted"] = round(memory_bytes(mesh.broker.pid) / 2**20)
    report["submit_ratio"] = round(report["submit_per_s_full"] / report["submit_per_s_empty"], 2)
    report["dispatch_ratio"] = round(
        report["dispatch_per_s_full"] / report["dispatch_per_s_few"], 2
    )
    return report


def judged(outcome: Outcome, report: Report) -> Outcome:
    """The result of the campaign: whether the marks hold."""
    memory = max(report["memory_mib"], report["memory_mib_after_restart"])
    outcome.check(memory <= MEMORY_MIB_MAX, f"the broker has {memory} MiB")
    for rate in ("submit", "dispatch"):
        ratio = report[f"{rate}_ratio"]
        outcome.check(ratio >= RATIO_MIN, f"{rate}: {ratio} of an empty broker's rate")
    took = report["restart_s"]
    outcome.check(took <= RESTART_S_MAX, f"a restart took {took} s")
    outcome.tried = report["tasks"]
    outcome.figures = report
    outcome.notes = f"{memory} MiB of memory, {report['disk_bytes_per_task']} B a task on the disk"
    return outcome.ended()


async def campaign(folder: Path, tasks: int) -> Outcome:
    """Measures, and judges."""
    outcome = Outcome("size", ["I10"], "task that waits")
    return judged(outcome, await measure(folder, tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a broker with many tasks that wait.")
    parser.add_argument("--tasks", type=int, default=10_000_000)
    options = parser.parse_args()
    os.environ.setdefault("PLAIT_BIN", str(ROOT / "build/release"))
    # Not where temporary files are: that may be memory.
    target = ROOT / "build/load"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="size-", dir=target) as folder:
        run(campaign(Path(folder), options.tasks))


if __name__ == "__main__":
    main()
