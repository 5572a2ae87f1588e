"""Makes a golden data directory: what a broker of this version leaves on the disk, with a task in
every state, for later versions to open.

    python -m tests.support.golden services/broker/tests/golden/format-1

To be run once for each format of the log that is released, never again for the same. What the
directory tells is written beside it by the test that opens it (`PLAIT_GOLDEN=write cargo test -p
plait-broker golden`).
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import grpc

from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Caller, Mesh
from tests.support.requests import entry, nap
from tests.support.waiting import reaches

SETTINGS = {
    "PLAIT_BROKER_FINISHED_IN_MEMORY": "64",
    "PLAIT_BROKER_SNAPSHOT_BYTES": "65536",
}
"""Small, so that there are archive files and snapshots after a few tasks."""


async def finish(caller: Caller) -> None:
    """Tasks that end: well, badly, too late, cancelled, a flow with children."""
    for number in range(60):
        await caller.echo.Echo(pb.EchoRequest(payload=b"%d" % number * 30))
        await caller.echo.Append(entry(f"account-{number % 3}", number))
    fail = pb.FailRequest(
        code=grpc.StatusCode.NOT_FOUND.value[0],
        message="no “such” thing",
        failures=9,
        violation="a.b",
        trailer="me",
    )
    for _ in range(3):
        await reaches(await caller.plait.submit(caller.echo.Fail, fail), "FAILED")
    late = await caller.plait.submit(caller.echo.Sleep, nap(3), deadline=0.2)
    await reaches(late, "EXPIRED")
    await caller.echo.Flow(pb.FlowRequest(width=5, depth=2, seed="golden"))


async def leave_waiting(caller: Caller) -> None:
    """Tasks that the next broker finds unfinished."""
    cancelled = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(), delay=3600)
    await cancelled.cancel("not needed")
    await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"later"), delay=86_400)
    await caller.plait.submit(
        caller.echo.Echo, pb.EchoRequest(payload=b"keyed"), key="golden-key", priority=9, delay=60
    )
    running = await caller.plait.submit(caller.echo.Sleep, nap(30))
    await reaches(running, "RUNNING")
    again = pb.FailRequest(code=grpc.StatusCode.UNAVAILABLE.value[0], failures=9)
    again.retry_delay.seconds = 30
    await reaches(await caller.plait.submit(caller.echo.Fail, again), "BACKOFF")
    await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo.append", reason="golden"))
    for number in range(60, 66):
        await caller.plait.submit(caller.echo.Append, entry("account-0", number))


async def make(folder: Path) -> Path:
    """Runs the mesh; answers where its data are."""
    async with Mesh(folder, env=SETTINGS) as mesh:
        await mesh.start_worker("go")
        async with mesh.caller() as caller:
            await finish(caller)
        assert mesh.broker is not None
        # A drain takes a snapshot; what follows is in the log behind it.
        await mesh.broker.terminate()
        await mesh.start_broker()
        async with mesh.caller() as caller:
            await leave_waiting(caller)
        await mesh.broker.kill()
    return mesh.data_dir


def keep(data: Path, target: Path) -> None:
    """Copies what counts: files prepared for later mean nothing, and the lock is the owner's."""
    target.mkdir(parents=True)
    for path in sorted(data.iterdir()):
        if not path.name.startswith(("spare-", "lock")):
            shutil.copy2(path, target / path.name)


def main() -> None:
    """Makes the directory that is named."""
    target = Path(sys.argv[1])
    if target.exists():
        sys.exit(f"{target} is there already; a golden directory is made once")
    with tempfile.TemporaryDirectory() as folder:
        keep(asyncio.run(make(Path(folder))), target / "data")


if __name__ == "__main__":
    main()
