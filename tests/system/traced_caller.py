"""A program that calls a flow inside a span of its own and submits a task; it exports by OTLP.

`python traced_caller.py SEED` prints its readiness line, with the id of the trace, when all is
done.
"""

import asyncio
import json
import sys

from opentelemetry import trace

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc


async def call(seed: str) -> str:
    """Answers the trace's id."""
    async with plait.connect() as mesh:
        stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(mesh.channel())
        with trace.get_tracer("tests").start_as_current_span("checkout") as span:
            await stub.Flow(pb.FlowRequest(width=2, depth=1, seed=seed, failures=1), timeout=20)
            task = await mesh.submit(stub.Fail, pb.FailRequest(code=3, message="no", failures=1))
        await asyncio.wait([asyncio.ensure_future(task.result())])
        return f"{span.get_span_context().trace_id:032x}"


def main(seed: str) -> None:
    """Runs to the end."""
    plait.trace.configure("caller")
    sys.stdout.write(json.dumps({"event": "ready", "trace": asyncio.run(call(seed))}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
