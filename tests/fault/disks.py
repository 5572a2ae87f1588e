"""Disks that fill up and disks that fail: the broker stops rather than lies, says why, and goes on
well when the fault is gone; nothing acknowledged is lost.

`python -m tests.fault.disks full --rounds 10`, `python -m tests.fault.disks sync --rounds 100`
"""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.fault import books, tools
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import fixed_address, new_folder
from tests.fault.traffic import Traffic
from tests.support.mesh import Mesh

STOP_S = 90.0
"""Within this the fault must have stopped the broker."""
SETTLE_S = 90.0
FELT_S = 3.0
"""A log under load syncs many times within this."""
DISK_MIB = 48
BALLAST_BYTES = 24 << 20
ECHO_BYTES = 60_000

Break = Callable[[Mesh, int], Awaitable[None]]
"""Makes the broker meet the fault, once."""
Mend = Callable[[Mesh], Awaitable[None]]
"""Takes the fault away and starts the broker again."""


async def _rounds(
    outcome: Outcome, mesh: Mesh, rounds: int, *, break_: Break, mend: Mend, says: str
) -> None:
    """Traffic all the while; the broker is broken and mended in turn."""
    journal = mesh.folder / "journal.tsv"
    history = History(journal)
    traffic = Traffic(outcome.campaign, window=64, payload=ECHO_BYTES, history=history)
    for language in ("go", "rust"):
        await mesh.start_worker(language, env={"ECHO_JOURNAL": str(journal)})
    async with mesh.caller() as caller, asyncio.TaskGroup() as group:
        running = group.create_task(traffic.run(caller.plait))
        for number in range(rounds):
            async with asyncio.timeout(STOP_S):
                await traffic.progress(20)
                await break_(mesh, number)
                await _stopped(outcome, mesh, says)
            outcome.tried += 1
            await mend(mesh)
        async with asyncio.timeout(SETTLE_S):
            await traffic.progress(20)
            traffic.stop()
            await running
    lines = executions(journal)
    books.audit(outcome, traffic, lines, zombies=False)
    await history.check(outcome)
    outcome.figures |= {"tasks": traffic.acknowledged, "executions": len(lines)}


async def _stopped(outcome: Outcome, mesh: Mesh, says: str) -> None:
    """It ends by itself, with an error, and says why."""
    assert mesh.broker is not None
    code = await mesh.broker.ended()
    outcome.check(code == 1, f"the broker ended with {code}, not 1")
    outcome.check(says in mesh.broker.tail(), f"it does not say why: {mesh.broker.tail()[-300:]}")


async def _opened_when_full(outcome: Outcome, mesh: Mesh) -> None:
    """Whether a broker starts on a full disk is its own affair; one that does not says why."""
    try:
        broker = await mesh.start_broker()
    except RuntimeError as error:
        outcome.check("No space left on device" in str(error), f"refused on a full disk: {error}")
    else:
        await broker.kill()


async def full(rounds: int, folder: Path) -> Outcome:
    """A disk fills up under load; some of it is freed; each round on a new disk."""
    tools.require(tools.have_disks(), "this needs root and loop devices")
    outcome = Outcome("disk-full", ["I1", "I2", "I16"], "full disk")
    tasks = executions = 0
    for number in range(rounds):
        place = new_folder(folder / str(number))
        with tools.small_disk(place, DISK_MIB) as disk:
            ballast = disk / "ballast"
            _write(ballast, BALLAST_BYTES)

            async def fill(mesh: Mesh, _: int) -> None:
                """The traffic does it."""

            async def free(mesh: Mesh, ballast: Path = ballast) -> None:
                await _opened_when_full(outcome, mesh)
                _remove(ballast)
                await mesh.start_broker()

            async with Mesh(place, address=fixed_address(), data_dir=disk / "broker") as mesh:
                await _rounds(
                    outcome, mesh, 1, break_=fill, mend=free, says="No space left on device"
                )
        tasks += outcome.figures["tasks"]
        executions += outcome.figures["executions"]
    outcome.figures = {"tasks": tasks, "executions": executions, "disk_mib": DISK_MIB}
    outcome.notes = f"ext4 of {DISK_MIB} MiB from a file"
    return outcome.ended()


async def sync(rounds: int, folder: Path) -> Outcome:
    """A single fdatasync fails with EIO, under load."""
    tools.require(tools.have_failing_calls(), "this needs libfiu")
    outcome = Outcome("failed-sync", ["I1", "I2", "I16"], "failed fdatasync")
    under = tools.failing_calls(folder)

    async def break_(mesh: Mesh, _: int) -> None:
        broker = mesh.broker
        assert broker is not None
        while broker.running:
            # The call that fails may be one of the thread that prepares files, which nobody needs.
            await tools.fail(folder, broker.pid, "sync/fdatasync")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FELT_S):
                    await broker.gone()

    async def mend(mesh: Mesh) -> None:
        await mesh.start_broker(under=under)

    async with Mesh(folder, address=fixed_address(), under=under) as mesh:
        await _rounds(outcome, mesh, rounds, break_=break_, mend=mend, says="Input/output error")
    outcome.notes = "EIO once by libfiu; the next fdatasync would succeed"
    return outcome.ended()


def _remove(path: Path) -> None:
    path.unlink()


def _write(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)


def main() -> None:
    parser = argparse.ArgumentParser(prog="disks", description=__doc__)
    parser.add_argument("what", choices=["full", "sync"])
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    campaign = {"full": full, "sync": sync}[chosen.what]
    with tempfile.TemporaryDirectory(prefix="plait-disks-") as folder:
        run(campaign(chosen.rounds, Path(folder)))


if __name__ == "__main__":
    main()
