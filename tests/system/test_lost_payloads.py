"""A request that the disk does not give back as it was written fails its task, and nothing else."""

from pathlib import Path

import grpc
import pytest

from plait import errors
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import Mesh


def damage(folder: Path, text: bytes) -> None:
    """Flips a bit of the one place in the log where the text is."""
    found = 0
    for path in folder.glob("*.seg"):
        at = path.read_bytes().find(text)
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([text[0] ^ 1]))
            found += 1
    assert found == 1


async def test_a_lost_request_fails_its_task_and_the_worker_goes_on(tmp_path: Path, language: str):
    # Nothing is kept in memory once the log has it.
    env = {"PLAIT_BROKER_RESIDENT_BYTES_MAX": "0"}
    async with Mesh(tmp_path, env=env) as mesh:
        worker = await mesh.start_worker(language)
        await worker.kill()
        async with mesh.caller() as caller:
            task = await caller.plait.submit(
                caller.echo.Echo, pb.EchoRequest(payload=b"to be lost")
            )
            damage(mesh.data_dir, b"to be lost")
            await mesh.start_worker(language)
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await task.result()
            assert lost.value.code() is grpc.StatusCode.DATA_LOSS
            assert errors.reason(lost.value) == errors.Reason.PAYLOAD_LOST
            assert errors.metadata(lost.value) == {"task": task.id, "payload": "request"}
            # The frame in which it would have come was empty.
            answer = await caller.echo.Echo(pb.EchoRequest(payload=b"the next"), timeout=60)
            assert answer.payload == b"the next"
