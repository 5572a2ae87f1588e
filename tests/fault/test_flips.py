"""Damage to a data directory; and the judge finds what it is there for."""

import asyncio
import os
from pathlib import Path

import pytest

from testing.v1 import echo_pb2 as pb
from tests.fault import flips
from tests.fault.conftest import clean
from tests.fault.flips import Damage, Seen
from tests.fault.outcome import Outcome
from tests.support.mesh import Mesh, binaries

RIGHT: flips.Served = {"t1": b"one", "t2": b"two"}


async def test_damage_is_told_or_harmless(tmp_path: Path):
    """The step is a prime, so that all bits of a byte have their turn."""
    outcome = await flips.campaign(499, tmp_path)
    clean(outcome)
    assert outcome.figures["refused at the open"] >= 5
    assert outcome.figures["harmless"] >= 5


def judged(seen: Seen) -> Outcome:
    outcome = Outcome("planted", [], "flip")
    flips.judge(outcome, Damage("a.seg", 7), seen, RIGHT)
    return outcome


@pytest.mark.parametrize(
    "seen",
    [
        Seen("plait-broker: a.seg is corrupt at byte 7: a checksum", {}),
        Seen(None, RIGHT),
        Seen(None, {**RIGHT, "t2": "DATA_LOSS: the payload is corrupt"}),
        Seen(None, {"list": "INTERNAL: the log is corrupt"}),
    ],
)
def test_the_judge_passes_what_is_right(seen: Seen):
    assert judged(seen).violations == 0


@pytest.mark.parametrize(
    "seen",
    [
        Seen("Segmentation fault", {}),
        Seen("thread panicked at: the file is corrupt", {}),
        Seen(None, {"t1": b"one"}),
        Seen(None, {**RIGHT, "t2": b"twp"}),
        Seen(None, {**RIGHT, "t3": b"three"}),
    ],
)
def test_the_judge_finds(seen: Seen):
    assert judged(seen).violations == 1


async def test_two_brokers_on_one_directory(tmp_path: Path):
    """The second is refused and names the first, which goes on."""
    async with Mesh(tmp_path) as mesh:
        assert mesh.broker is not None
        command = [str(binaries() / "plait-broker"), "--listen", "127.0.0.1:0"]
        second = await asyncio.create_subprocess_exec(
            *(*command, "--data-dir", str(mesh.data_dir)), stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, said = await second.communicate()
        assert second.returncode == 1
        assert f"is locked by process {mesh.broker.pid}" in said.decode()
        assert mesh.broker.running
        await mesh.start_worker("rust")
        async with mesh.caller() as caller:
            answer = await caller.echo.Echo(pb.EchoRequest(payload=b"still here"))
            assert answer.payload == b"still here"


async def test_a_lock_that_a_killed_broker_left_is_no_hindrance(tmp_path: Path):
    """The number in it may belong to another process by now."""
    async with Mesh(tmp_path) as mesh:
        assert mesh.broker is not None
        await mesh.broker.kill()
        lock = mesh.data_dir / "lock"
        lock.write_text(f"{os.getpid()}\n")
        again = await mesh.start_broker()
        assert lock.read_text() == f"{again.pid}\n"
