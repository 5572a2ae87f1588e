"""Processes of Plait on this machine: where the broker's binary is, and starting one until it is
ready.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

BROKER: Final = "plait-broker"


def find_broker(environment: Mapping[str, str] | None = None) -> Path:
    """The broker's binary: PLAIT_BROKER, else in the folder PLAIT_BIN, else beside this Python,
    else the newest build of the repository that this file is in, else on PATH.

    Raises FileNotFoundError, which says where it was looked for.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get("PLAIT_BROKER"):
        if not Path(named).is_file():
            raise FileNotFoundError(f"PLAIT_BROKER is {named}, and there is no such file")
        return Path(named)
    looked = list(_candidates(environment))
    for candidate in looked:
        if candidate.is_file():
            return candidate
    found = shutil.which(BROKER, path=environment.get("PATH"))
    if found is not None:
        return Path(found)
    places = ", ".join([*map(str, looked), "PATH"])
    raise FileNotFoundError(
        f"there is no {BROKER}: looked at {places}."
        " Set PLAIT_BROKER, or build it by `cargo build -p plait-broker`"
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    if named := environment.get("PLAIT_BIN"):
        yield Path(named, BROKER)
    yield Path(sysconfig.get_path("scripts"), BROKER)
    for folder in Path(__file__).resolve().parents:
        if (folder / "services" / "broker" / "Cargo.toml").is_file():
            built = [folder / "target" / profile / BROKER for profile in ("release", "debug")]
            yield from sorted(built, key=_modified, reverse=True)
            return


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


class Process:
    """A process that says on stdout, in one line of JSON, that it is ready and where it listens."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it; its stderr is appended to `log`."""
        self.name = name
        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=None if environment is None else {**os.environ, **environment},
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=f"plait-{name}-stdout", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def wait_ready(self, seconds: float) -> str:
        """The address that it listens on.

        Raises RuntimeError with the end of its log when it ended, or is not ready in time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise RuntimeError(
                    f"{self.name} is not ready after {seconds:g} s\n{self._tail()}"
                ) from None
            if line is None:
                code = self._popen.wait()
                raise RuntimeError(f"{self.name} ended with code {code}\n{self._tail()}")
            address = _address(line)
            if address is not None:
                return address

    def terminate(self, seconds: float) -> int:
        """Asks it to end, kills it after `seconds`; answers its exit code."""
        self._popen.terminate()
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Kills it, as kill -9 does; answers its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        return self._popen.wait()

    def _read(self) -> None:
        # To the end of its life, or it would stop at a full pipe one day.
        assert self._popen.stdout is not None
        with self._popen.stdout as stdout:
            for line in stdout:
                self._lines.put(line.decode(errors="replace"))
        self._lines.put(None)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


def _address(line: str) -> str | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if isinstance(said, dict) and said.get("event") == "ready":
        return str(said.get("address", ""))
    return None
