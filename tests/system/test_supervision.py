"""`plait dev` keeps workers alive: a process that cannot live is told from one that its tasks end,
and there are as many processes as the backlog needs.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

import plait
from plait.v1 import task_pb2, task_service_pb2_grpc
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.fault.contract import messages, stubs
from tests.support.mesh import ROOT, WORKER_LANGUAGES, binaries
from tests.support.processes import Process
from tests.support.waiting import eventually

PATIENCE_S = 60.0
# Of fault.proto.
ATTEMPTS = 3
# Two of them end their worker more often than a crash loop may die.
POISONS = 2
ECHO_WORKER = f"{sys.executable} {ROOT / 'interop/drivers/python/echo_worker.py'}"
# A process ends 20 of these a second.
SLEEPS, SLEEP_MS, SLOTS = 400, 200, 4


async def start(folder: Path, *workers: str) -> Process:
    command = [sys.executable, "-m", "plait.cli", "dev", "--listen", "127.0.0.1:0"]
    for worker in workers:
        command += ["--worker", worker]
    environment = {
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "PLAIT_BROKER": str(binaries() / "plait-broker"),
        "PYTHONPATH": str(ROOT),
    }
    return await Process.start("dev", command, env=environment, log=folder / "dev.log")


async def listed(dev: Process, noun: str) -> list[dict[str, Any]]:
    """What the command line lists."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", noun, "list", "-o", "json"),
        *("--address", dev.ready["address"]),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    (found,) = json.loads(stdout).values()
    return list(found)


async def processes(
    dev: Process, holds: Callable[[dict[str, dict[str, Any]]], bool]
) -> dict[str, dict[str, Any]]:
    """Local processes by name, once that holds."""

    async def ask() -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in await listed(dev, "process")}

    return await eventually(ask, holds, PATIENCE_S)


async def test_a_poison_task_is_told_from_a_crash_loop(tmp_path: Path):
    fault = f"{sys.executable} -m tests.fault.worker {tmp_path / 'journal.tsv'}"
    dev = await start(tmp_path, f"fault={fault}", "broken=sh -c 'exit 3'")
    try:
        async with plait.connect(dev.ready["address"]) as client:
            stub = stubs().FaultServiceStub(client.channel())
            poisons = [await _die_of(client, stub) for _ in range(POISONS)]
            # Others have their worker meanwhile and after.
            request = messages().KeepRequest(key="healthy", payload=b"x")
            assert (await stub.Keep(request, timeout=PATIENCE_S)).payload == b"x"
        deaths = POISONS * ATTEMPTS
        found = await processes(
            dev,
            lambda found: (
                found["fault"].get("deathsWithAttempts") == deaths
                and found["broken"]["state"] == "PROCESS_STATE_CRASH_LOOP"
            ),
        )
        assert found["fault"]["state"] == "PROCESS_STATE_RUNNING"
        assert found["fault"]["deaths"] == deaths
        assert sorted(found["fault"]["suspects"]) == sorted(poisons)
        assert found["broken"]["exitCode"] == 3
        assert not {"deathsWithAttempts", "suspects"} & set(found["broken"])
        assert await dev.terminate() == 0
    finally:
        await dev.kill()


async def _die_of(client: plait.Client, stub: Any) -> str:
    """Submits a task that ends its worker, and waits for its end. Returns its id."""
    task = await client.submit(stub.Poison, messages().PoisonRequest(how="abort"))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async with asyncio.timeout(PATIENCE_S):
            await task.result()
    assert plait.errors.reason(failed.value) == plait.errors.Reason.WORKER_LOST
    async with grpc.aio.insecure_channel(client.address) as channel:
        tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        ended = (await tasks.GetTask(api.GetTaskRequest(id=task.id))).task
    assert (ended.state, ended.attempt) == (task_pb2.TASK_STATE_FAILED, ATTEMPTS)
    assert ended.dead_letter
    return task.id


async def test_a_backlog_brings_more_processes(tmp_path: Path):
    dev = await start(tmp_path, f"echo:1..3={ECHO_WORKER} --concurrency {SLOTS}")
    try:
        async with plait.connect(dev.ready["address"]) as client:
            stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(
                client.channel()
            )
            duration = duration_pb2.Duration(nanos=SLEEP_MS * 1_000_000)
            requests = [echo_pb2.SleepRequest(duration=duration) for _ in range(SLEEPS)]
            await stub.Sleep(requests[0], timeout=PATIENCE_S)
            assert set(await processes(dev, bool)) == {"broker", "echo-1"}
            tasks = [task async for task in client.submit_many(stub.Sleep, requests)]
            await processes(dev, {"echo-1", "echo-2", "echo-3"}.issubset)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(task.result() for task in tasks))
        assert await dev.terminate() == 0
    finally:
        await dev.kill()


async def test_every_language_says_which_process_it_is(tmp_path: Path):
    commands = {each: str(binaries() / f"echo-worker-{each}") for each in WORKER_LANGUAGES}
    commands["python"] = ECHO_WORKER
    dev = await start(tmp_path, *(f"{name}={command}" for name, command in commands.items()))
    try:

        async def owners() -> set[str]:
            return {each["worker"].partition(".")[0] for each in await listed(dev, "worker")}

        await eventually(owners, lambda found: found == set(WORKER_LANGUAGES), PATIENCE_S)
        assert await dev.terminate() == 0
    finally:
        await dev.kill()
