"""A worker or a client of a version of testing.v1.EchoService: whichever generated code comes first
on PYTHONPATH.

    versioned_echo.py worker [VERSION]
    versioned_echo.py call METHOD REQUEST COUNT

The worker serves Echo and Fail, and answers with all that its contract knows; VERSION is what it
announces of its program. The client calls with a serialized request in hexadecimal, so often, and
says what came back.
"""

import asyncio
import json
import sys
from typing import Any

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc as rpc


class Echo(rpc.EchoServiceServicer):
    """Knows what its generated code knows."""

    async def Echo(self, request: Any, context: Any) -> Any:
        """Every field comes back that the answer has as well."""
        known = pb.EchoResponse.DESCRIPTOR.fields_by_name
        fields = {field.name: value for field, value in request.ListFields() if field.name in known}
        return pb.EchoResponse(**fields)

    async def Fail(self, request: Any, context: Any) -> Any:
        """Does not fail."""
        return pb.FailResponse(attempt=plait.attempt().number)


def ready(**said: Any) -> None:
    """Tells whoever started this."""
    sys.stdout.write(json.dumps({"event": "ready", **said}) + "\n")
    sys.stdout.flush()


async def work(version: str = "") -> None:
    """Until SIGTERM."""
    async with plait.connect() as client:
        worker = client.worker(version=version, concurrency=8)
        servicer: Any = Echo  # the other methods are not implemented
        worker.serve(servicer(), rpc.add_EchoServiceServicer_to_server)
        running = asyncio.create_task(worker.run())
        await worker.attached()
        ready(worker=worker.id)
        await running


async def call(method: str, request: bytes, count: int) -> None:
    """Calls side by side."""
    async with plait.connect() as client:
        stub = getattr(rpc.EchoServiceStub(client.channel()), method)
        kind = pb.DESCRIPTOR.services_by_name["EchoService"].methods_by_name[method].input_type
        message = getattr(pb, kind.name).FromString(request)
        answers = await asyncio.gather(*(stub(message, timeout=60) for _ in range(count)))
    ready(answers=[each.SerializeToString().hex() for each in answers])


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(work(*sys.argv[2:]))
    else:
        asyncio.run(call(sys.argv[2], bytes.fromhex(sys.argv[3]), int(sys.argv[4])))
