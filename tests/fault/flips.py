"""Every byte of a small data directory flipped in turn, and its files cut short: the real broker
says so and serves nothing wrong, or serves exactly what was there.

The directory holds results, failures and waiting tasks, both below its snapshot and after it. It
was opened once after its last write, so that all of it is known to be durable; a flip in the last
frame of a log that was only just written looks like a write that a power cut tore, which is cut.

`python -m tests.fault.flips`; `--step 7` takes every seventh byte.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from plait.v1 import task_pb2, task_service_pb2_grpc
from plait.v1 import task_service_pb2 as api
from tests.fault.command import run
from tests.fault.contract import messages, stubs
from tests.fault.outcome import Outcome
from tests.fault.site import new_folder, start_fault_worker
from tests.support.mesh import Mesh, binaries

START_S = 60.0
ASK_S = 60.0
ZEROS_STEP = 4096
"""Of the zeros after the last used byte of a file, every so many are flipped."""
LANES = 2
SETTINGS = {"PLAIT_BROKER_RESIDENT_BYTES_MAX": "0", "PLAIT_BROKER_LOG_FORMAT": "text"}
"""Nothing is answered from memory."""
CLEAR = ("corrupt", "missing", "format version", "no snapshot", "not understood")


@dataclass(frozen=True)
class Damage:
    """What is done to one file: a bit flipped at a place, or everything after it cut."""

    file: str
    at: int
    cut: bool = False

    def to(self, folder: Path) -> None:
        """Does it."""
        path = folder / self.file
        if self.cut:
            os.truncate(path, self.at)
            return
        with path.open("r+b") as opened:
            opened.seek(self.at)
            byte = opened.read(1)[0]
            opened.seek(self.at)
            opened.write(bytes([byte ^ (1 << (self.at % 8))]))


Served = dict[str, bytes | str]
"""What is served of each task, or the error that is served instead, by id."""


@dataclass(frozen=True)
class Seen:
    """What became of an open: refused with a text, or serving."""

    refused: str | None
    served: Served


async def prepare(folder: Path) -> Path:
    """Makes the data directory and answers where it is."""
    async with Mesh(folder, env=SETTINGS) as mesh:
        worker = await start_fault_worker(mesh)
        await fill(mesh, "before")
        assert mesh.broker is not None
        # A drain ends with a snapshot.
        assert await mesh.broker.terminate() == 0
        await mesh.start_broker()
        await fill(mesh, "after")
        await worker.kill()
        assert mesh.scheduler is not None
        await mesh.scheduler.kill()
        async with mesh.caller() as caller:
            stub = stubs().FaultServiceStub(caller.plait.channel())
            for number in range(3):
                request = messages().KeepRequest(key=f"waits-{number}", payload=b"w" * 99)
                await caller.plait.submit(stub.Keep, request)
        for _ in range(2):
            await mesh.broker.kill()
            await mesh.start_broker()
        await mesh.broker.kill()
        return mesh.data_dir


async def fill(mesh: Mesh, when: str) -> None:
    """Tasks of all endings."""
    async with mesh.caller() as caller:
        stub = stubs().FaultServiceStub(caller.plait.channel())
        tasks = [await caller.plait.submit(stub.Keep, keep(when, number)) for number in range(6)]
        for task in tasks:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await task.result()


def keep(when: str, number: int) -> Any:
    """Payloads of different lengths; the last one fails."""
    payload = f"{when}/{number}/".encode() * (1 + 7 * number)
    return messages().KeepRequest(key=f"{when}-{number}", payload=payload, fail=number == 5)


def damages(folder: Path, step: int) -> Iterator[Damage]:
    """Every step-th used byte of every file, some of the zeros behind, and cuts."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        used = len(data.rstrip(b"\0"))
        for at in range(0, used, step):
            yield Damage(path.name, at)
        for at in range(used, len(data), ZEROS_STEP * step):
            yield Damage(path.name, at)
        for at in range(0, used, 97 * step):
            yield Damage(path.name, at, cut=True)


async def look(data: Path, log: Path) -> Seen:
    """Opens a data directory with the broker and reads everything."""
    command = [str(binaries() / "plait-broker"), "--listen", "127.0.0.1:0"]
    with log.open("wb") as errors:
        broker = await asyncio.create_subprocess_exec(
            *(*command, "--data-dir", str(data)),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **SETTINGS},
        )
    try:
        assert broker.stdout is not None
        async with asyncio.timeout(START_S):
            ready = await broker.stdout.readline()
            if not ready:
                await broker.wait()
                return Seen(text_of(log), {})
        address = ready.split(b'"address":"')[1].split(b'"')[0].decode()
        async with asyncio.timeout(ASK_S):
            return Seen(None, await read_all(address))
    finally:
        with contextlib.suppress(ProcessLookupError):
            broker.kill()
        await broker.wait()


async def read_all(address: str) -> Served:
    """Every task in full, and the queue."""
    async with opened(address) as tasks:
        request = api.ListTasksRequest(page_size=1000)
        try:
            listed = (await tasks.ListTasks(request)).tasks
        except grpc.aio.AioRpcError as error:
            return {"list": said(error)}
        served: Served = {}
        for task in listed:
            asked = api.GetTaskRequest(id=task.id, view=task_pb2.TASK_VIEW_FULL)
            try:
                found = (await tasks.GetTask(asked)).task
                served[task.id] = found.SerializeToString(deterministic=True)
            except grpc.aio.AioRpcError as error:
                served[task.id] = said(error)
        return served


def said(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


@contextlib.asynccontextmanager
async def opened(
    address: str,
) -> AsyncIterator["task_service_pb2_grpc.TaskServiceAsyncStub"]:
    """A stub of the task service."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield task_service_pb2_grpc.TaskServiceStub(channel)


def judge(outcome: Outcome, damage: Damage, seen: Seen, right: Served) -> str:
    """Detected, at the open or when it is read; or harmless. Anything else is a violation."""
    if seen.refused is not None:
        clear = "panicked" not in seen.refused and any(word in seen.refused for word in CLEAR)
        outcome.check(clear, f"{damage}: refused without a clear word: {seen.refused[-300:]}")
        return "refused at the open"
    if seen.served == right:
        return "harmless"
    for task, bytes_ in right.items():
        got = seen.served.get(task)
        wrong = got is None or (isinstance(got, bytes) and got != bytes_)
        if wrong and "list" not in seen.served:
            outcome.violated(f"{damage}: {task} is served as {got!r:.200}, not {bytes_!r:.200}")
    for task in seen.served.keys() - right.keys() - {"list"}:
        outcome.violated(f"{damage}: {task} is served and never was")
    return "told when it was read"


async def campaign(step: int, folder: Path) -> Outcome:
    """Runs the whole."""
    outcome = Outcome("flips", ["I15"], "damaged byte or cut file")
    sound = await prepare(new_folder(folder / "made"))
    for path in sound.glob("spare*"):
        path.unlink()
    right = (await look(copied(sound, folder / "sound"), folder / "sound.log")).served
    outcome.check(len(right) == 15, f"the sound directory serves {len(right)} tasks, not 15")
    verdicts: Counter[str] = Counter()
    todo = damages(sound, step)

    async def lane(number: int) -> None:
        for damage in todo:
            data = copied(sound, folder / f"lane-{number}")
            damage.to(data)
            log = folder / f"lane-{number}.log"
            try:
                seen = await look(data, log)
            except TimeoutError:
                outcome.violated(f"{damage}: neither served nor ended: {text_of(log)[-300:]}")
                continue
            verdicts[judge(outcome, damage, seen, right)] += 1
            outcome.tried += 1

    async with asyncio.TaskGroup() as group:
        for number in range(LANES):
            group.create_task(lane(number))
    outcome.figures = {**verdicts, "bytes": sum(f.stat().st_size for f in sound.iterdir())}
    outcome.notes = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return outcome.ended()


def text_of(log: Path) -> str:
    """What a broker wrote."""
    return log.read_text(errors="replace")


def copied(source: Path, target: Path) -> Path:
    """A fresh copy."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="flips", description=__doc__)
    parser.add_argument("--step", type=int, default=1)
    step = parser.parse_args().step
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="plait-flips-", dir=where) as folder:
        run(campaign(step, Path(folder)))


if __name__ == "__main__":
    main()
