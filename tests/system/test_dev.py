"""`plait dev`: one command for everything, and everything comes back."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import plait
from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import ROOT, binaries
from tests.support.processes import Process

WORKER = f"echo={sys.executable} {ROOT / 'interop/drivers/python/echo_worker.py'}"
CALL_SECONDS = 40


async def start(folder: Path, *workers: str) -> Process:
    command = [sys.executable, "-m", "plait.cli", "dev", "--listen", "127.0.0.1:0"]
    for worker in workers:
        command += ["--worker", worker]
    environment = {"XDG_DATA_HOME": str(folder), "PLAIT_BROKER": str(binaries() / "plait-broker")}
    return await Process.start("dev", command, env=environment, log=folder / "dev.log")


async def echo(address: str, payload: bytes) -> bytes:
    async with plait.connect(address) as client:
        stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(client.channel())
        answer = await stub.Echo(echo_pb2.EchoRequest(payload=payload), timeout=CALL_SECONDS)
    return answer.payload


def child(parent: Process, part: str) -> int:
    """The child whose command holds this."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    found = [
        int(pid) for pid in children if part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(found) == 1, found
    return found[0]


async def test_what_dies_comes_back_and_the_data_is_kept(tmp_path: Path):
    dev = await start(tmp_path, WORKER)
    try:
        address = dev.ready["address"]
        assert dev.ready["data_dir"] == str(tmp_path / "plait")
        assert await echo(address, b"first") == b"first"
        for part in ("echo_worker", "plait-broker", "echo_worker"):
            os.kill(child(dev, part), signal.SIGKILL)
            assert await echo(address, part.encode()) == part.encode()
        assert await dev.terminate() == 0
    finally:
        await dev.kill()
    # The methods are known from before: no worker has announced them to this one yet.
    again = await start(tmp_path)
    try:
        async with plait.connect(again.ready["address"]) as client:
            stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(
                client.channel()
            )
            task = await client.submit(stub.Echo, echo_pb2.EchoRequest(payload=b"x"))
            assert task.id.startswith("t")
        assert await again.terminate() == 0
    finally:
        await again.kill()


async def test_a_killed_dev_leaves_nothing_behind(tmp_path: Path):
    dev = await start(tmp_path)
    descriptor = os.pidfd_open(child(dev, "plait-broker"))
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await dev.kill()
        async with asyncio.timeout(CALL_SECONDS):
            await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
