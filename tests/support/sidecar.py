"""A plain gRPC server and the sidecar beside it."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.mesh import ROOT, Mesh, binaries
from tests.support.processes import Process

_SERVER = ROOT / "interop/drivers/plain/plain_echo.py"


@dataclass
class Plain:
    """A plain server on an address of its own, started again at the same one."""

    mesh: Mesh
    process: Process
    journal: Path

    @classmethod
    async def start(cls, mesh: Mesh, *arguments: str, listen: str = "127.0.0.1:0") -> "Plain":
        """Starts it."""
        journal = mesh.folder / "journal.jsonl"
        command = [sys.executable, str(_SERVER), "--listen", listen, "--journal", str(journal)]
        return cls(mesh, await mesh.start("plain", [*command, *arguments]), journal)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.process.address

    async def again(self) -> None:
        """Starts it again, at its address."""
        self.process = (await Plain.start(self.mesh, listen=self.address)).process

    def entries(self, event: str, **where: object) -> list[dict[str, Any]]:
        """What its journal says, of all of its processes."""
        if not self.journal.exists():
            return []
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        wanted = {"event": event, **where}
        return [line for line in lines if wanted.items() <= line.items()]


async def start_sidecar(
    mesh: Mesh, target: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Process:
    """Starts a sidecar and waits until it is attached."""
    command = [str(binaries() / "plait-sidecar"), "--target", target, *arguments]
    worker = await mesh.start("sidecar", command, env)
    mesh.workers.append(worker)
    return worker
