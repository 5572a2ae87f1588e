"""Puts another policy of the echo service in force, as an operator would."""

import asyncio
import sys

from tests.support.mesh import ROOT, Mesh

# Stands once in the contract, at the method Echo.
BREAKER = "breaker: {disabled: false}"


async def push(mesh: Mesh, policy: str) -> None:
    """Pushes the contract with this in the place of the breaker of Echo."""
    source = (ROOT / "proto/testing/v1/echo.proto").read_text()
    assert source.count(BREAKER) == 1
    folder = mesh.folder / "pushed"
    path = folder / "testing/v1/echo.proto"
    path.parent.mkdir(parents=True)
    path.write_text(source.replace(BREAKER, policy))
    pushing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "contract", "push", str(path)),
        *("-I", str(folder), "--service", "testing.v1.EchoService"),
        *("--address", mesh.address),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await pushing.wait() != 0:
        raise RuntimeError(f"the contract was refused with {policy}")
