"""What several campaigns set up."""

import sys
from collections.abc import Mapping

from tests.support.mesh import ROOT, Mesh
from tests.support.processes import Process


async def start_fault_worker(mesh: Mesh, env: Mapping[str, str] | None = None) -> Process:
    """A worker of fault.proto; its journal is `journal.tsv` in the folder of the mesh."""
    journal = str(mesh.folder / "journal.tsv")
    command = [sys.executable, "-m", "tests.fault.worker", journal]
    return await mesh.start("fault", command, {"PYTHONPATH": str(ROOT), **(env or {})})
