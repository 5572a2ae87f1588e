"""A release is put back over the data directory of a later one: it says so and changes nothing.

The golden directory of each format that was released gets one version raised, checksums and all, as
a later release would have left it: of each kind of file, of a frame, of the records in a frame and
in a snapshot; or a record of an unknown kind under a known version. Today's broker must end with 1,
name the file, the version found, the versions it reads and what to do, and leave every byte and
every time of the directory as it was, the lock file included.

The other way, an older release over today's directory, is the same binary as long as there is one
format: it opens the golden directory, goes on, and opens what it left.

`python -m tests.fault.rollback`
"""

import argparse
import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.fault import later
from tests.fault.command import run
from tests.fault.outcome import ROOT, Outcome
from tests.support.mesh import Mesh, binaries

GOLDEN = ROOT / "services/broker/tests/golden"
END_S = 60.0
OLD_NS = 1_700_000_000 * 10**9
"""A time that nothing written now can have."""
WHAT_TO_DO = "start the release that wrote it"
VERSIONS = "format version 2, this release reads versions 1 to 1"
KIND = "a record's kind has no meaning to this release"
CASES: dict[Callable[[Path], Path], str] = {
    later.manifest: VERSIONS,
    later.segment: VERSIONS,
    later.frame: VERSIONS,
    later.snapshot: VERSIONS,
    later.archive: VERSIONS,
    later.records: VERSIONS,
    later.snapshot_records: VERSIONS,
    later.unknown_kind: KIND,
}
"""What is raised, and what is said of it."""

State = dict[str, tuple[bytes, int]]
"""Bytes and time of each file, and of the directory itself."""


def copied(golden: Path, target: Path) -> Path:
    """A copy of a golden directory, with the lock file of an owner that has ended."""
    shutil.copytree(golden / "data", target)
    (target / "lock").write_text("4194304\n")
    return target


def aged(data: Path) -> None:
    """Makes everything old, so that a change shows."""
    for path in [*data.iterdir(), data]:
        os.utime(path, ns=(OLD_NS, OLD_NS))


def state_of(data: Path) -> State:
    """All of a directory."""
    files = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.iterdir()}
    return {**files, ".": (b"", data.stat().st_mtime_ns)}


async def refused(data: Path) -> tuple[int | None, str]:
    """How a broker over this directory ends, and what it says; None: it serves."""
    broker = await asyncio.create_subprocess_exec(
        *(str(binaries() / "plait-broker"), "--listen", "127.0.0.1:0", "--data-dir", str(data)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert broker.stdout is not None
    try:
        async with asyncio.timeout(END_S):
            if await broker.stdout.readline():
                return None, "it serves"
            _, said = await broker.communicate()
            return broker.returncode, said.decode(errors="replace")
    finally:
        if broker.returncode is None:
            broker.kill()
            await broker.wait()


def judge(
    outcome: Outcome, name: str, seen: tuple[int | None, str], wanted: list[str], same: bool
) -> None:
    """One refusal."""
    code, said = seen
    last = said.strip().splitlines()[-1:] or [""]
    outcome.check(code == 1, f"{name}: ended with {code}, not 1: {said[-300:]}")
    for text in wanted:
        told = last[0].count(text)
        outcome.check(told == 1, f"{name}: says {text!r} {told} times: {last[0]}")
    outcome.check(same, f"{name}: something was written")


async def campaign(folder: Path) -> Outcome:
    """Runs the whole."""
    outcome = Outcome("rollback", ["I13"], "directory of a later format")
    formats = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
    for golden in formats:
        for number, (raise_, text) in enumerate(CASES.items()):
            data = copied(golden, folder / f"{golden.name}-{number}")
            path = raise_(data)
            aged(data)
            before = state_of(data)
            seen = await refused(data)
            same = state_of(data) == before
            wanted = [path.name, text, WHAT_TO_DO]
            judge(outcome, f"{golden.name}, {raise_.__name__}", seen, wanted, same)
            outcome.tried += 1
        await _goes_on(outcome, copied(golden, folder / golden.name), folder)
    outcome.notes = f"{len(formats)} format, raised in: " + ", ".join(
        raise_.__name__.replace("_", " ") for raise_ in CASES
    )
    return outcome.ended()


async def _goes_on(outcome: Outcome, data: Path, folder: Path) -> None:
    """The same directory, not raised, is opened, written to, and opened again."""
    before = state_of(data)
    mesh = Mesh(folder, data_dir=data)
    try:
        for _ in range(2):
            broker = await mesh.start_broker()
            outcome.check(await broker.terminate() == 0, f"{data.name}: no clean end")
    finally:
        await mesh.stop()
    outcome.check(state_of(data) != before, f"{data.name}: nothing is written where it may be")


def main() -> None:
    argparse.ArgumentParser(prog="rollback", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-rollback-") as folder:
        run(campaign(Path(folder)))


if __name__ == "__main__":
    main()
