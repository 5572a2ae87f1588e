"""Where the broker's binary is."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

NAME = "plait-broker"


class BrokerMissingError(Exception):
    """The binary is nowhere; the text says where it was looked for."""


def find_broker(environment: Mapping[str, str]) -> Path:
    """The first of: PLAIT_BROKER, the folder PLAIT_BIN, beside this Python, the newest build of the
    checkout that this file is in, PATH. Raises BrokerMissingError."""
    if named := environment.get("PLAIT_BROKER"):
        if Path(named).is_file():
            return Path(named)
        raise BrokerMissingError(f"PLAIT_BROKER is {named}, and there is no such file")
    looked: list[str] = []
    for path in _candidates(environment):
        if path.is_file():
            return path
        looked.append(str(path))
    on_path = shutil.which(NAME, path=environment.get("PATH", ""))
    if on_path is not None:
        return Path(on_path)
    places = "".join(f"\n  {place}" for place in [*looked, "PATH"])
    raise BrokerMissingError(
        f"the broker's binary {NAME} is missing; it was looked for at{places}\n"
        "Name it in PLAIT_BROKER, or build it in a checkout: cargo build -p plait-broker"
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    if folder := environment.get("PLAIT_BIN"):
        yield Path(folder, NAME)
    yield Path(sys.executable).parent / NAME
    checkout = _checkout()
    if checkout is not None:
        built = [checkout / "target" / profile / NAME for profile in ("release", "debug")]
        yield from sorted(built, key=_modified, reverse=True)


def _checkout() -> Path | None:
    """The root of the repository, where this package is run from one."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "services" / "broker" / "Cargo.toml").is_file():
            return parent
    return None


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0
