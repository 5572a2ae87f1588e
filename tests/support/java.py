"""Java with the jars of interop/plain/java, for tests that are skipped where there is no Java."""

import asyncio
import shutil
import socket

import pytest

from tests.support.mesh import ROOT, Mesh
from tests.support.processes import Process

# Small and soon at work; what is run is short.
_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")
_SERVER = "io.grpc.testing.integration.TestServiceServer"
# It says so in words of its own. Sent signals reach Java itself.
_READY = r's/^Server started on port \(.*\)/{"event": "ready", "address": "127.0.0.1:\1"}/'
_RUN = f"exec \"$@\" > >(sed --unbuffered '{_READY}')"


async def java() -> list[str]:
    """The command that runs a class; the first one downloads the jars. Skips the test where Java or
    Maven is missing."""
    if missing := [each for each in ("java", "javac", "mvn") if shutil.which(each) is None]:
        pytest.skip(f"there is no {' and no '.join(missing)} here")
    process = await asyncio.create_subprocess_exec(str(ROOT / ".ci/java.sh"))
    assert await process.wait() == 0
    built = ROOT / "build/java"
    return ["java", *_FLAGS, "-cp", f"{built}/classes:{built}/lib/*"]


async def start_interop_server(mesh: Mesh) -> Process:
    """The server of grpc-java's interop suite, which its authors wrote. It has no reflection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*await java(), _SERVER, f"--port={port}", "--use_tls=false"]
    return await mesh.start("java-server", ["bash", "-c", _RUN, "bash", *command])
