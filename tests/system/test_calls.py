"""Calls and submissions through the user's own stub."""

from tests.system.mesh import Caller

from testing.v1 import echo_pb2 as pb


async def test_a_call_answers(caller: Caller):
    answer = await caller.echo.Echo(pb.EchoRequest(payload=b"\x00\xff"), timeout=20)
    assert answer.payload == b"\x00\xff"


async def test_a_submitted_task_has_its_result(caller: Caller):
    task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"later"))
    assert (await task.result()).payload == b"later"
    assert (await task.state()).final
