"""Tools of the operating system that break things: a small disk, failing calls, another clock.

Each says whether it is there; a campaign that needs an absent one says so and does not run.
`make fault-tools` installs them where that is possible.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

FIU_LIBRARIES = Path("/usr/lib/fiu")
CLOCK_LIBRARIES = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib").glob("faketime/libfaketimeMT.so.1"),
]
EIO = 5
_RUN_S = 30.0


class MissingToolError(Exception):
    """A tool is not installed, or this machine does not allow its use."""


def have_disks() -> bool:
    """Whether a file system can be mounted from a file."""
    return os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None and _can_mount()


def have_failing_calls() -> bool:
    """Whether libfiu is installed."""
    return shutil.which("fiu-ctrl") is not None and FIU_LIBRARIES.is_dir()


def have_clocks() -> bool:
    """Whether libfaketime is installed."""
    return bool(CLOCK_LIBRARIES)


def _can_mount() -> bool:
    said = subprocess.run(["losetup", "-f"], capture_output=True, check=False, timeout=_RUN_S)
    return said.returncode == 0


def require(there: bool, what: str) -> None:
    """Raises MissingToolError."""
    if not there:
        raise MissingToolError(f"{what}; `make fault-tools` installs it, as root")


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of its own of so many MiB, mounted in `folder`/disk."""
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    with image.open("wb") as opened:
        opened.truncate(mib << 20)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(mounted))
    try:
        yield mounted
    finally:
        _run("umount", "-l", str(mounted))
        image.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_RUN_S)


def failing_calls(folder: Path) -> list[str]:
    """The command under which a process can be told to fail: see `fail`."""
    libraries = f"{FIU_LIBRARIES}/fiu_run_preload.so:{FIU_LIBRARIES}/fiu_posix_preload.so"
    return ["env", f"LD_PRELOAD={libraries}", f"FIU_CTRL_FIFO={folder}/fiu"]


async def fail(folder: Path, pid: int, call: str, error: int = EIO) -> None:
    """The next call of this name (`sync/fdatasync`) of a process fails; those after it do not, as
    Linux has it after a failed write-back. A process that ends meanwhile is none to be told."""
    tell = f"enable name=posix/io/{call},failinfo={error},onetime"
    child = await asyncio.create_subprocess_exec(
        *("fiu-ctrl", "-f", f"{folder}/fiu", "-c", tell, str(pid)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_RUN_S):
        said, _ = await child.communicate()
    if child.returncode != 0 and _lives(pid):
        raise RuntimeError(f"fiu-ctrl: {said.decode()}")


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
