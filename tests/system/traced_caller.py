"""A program that calls and submits inside a span of its own; it exports by OTLP.

`python traced_caller.py SEED` calls a flow; `python traced_caller.py` calls methods that have no
children. It prints its readiness line, with the id of the trace and the context that a handler saw,
when all is done.
"""

import asyncio
import json
import sys

from opentelemetry import trace

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc


async def call(seed: str | None) -> dict[str, str]:
    """Answers what to print."""
    seen = ""
    async with plait.connect() as mesh:
        stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(mesh.channel())
        with trace.get_tracer("tests").start_as_current_span("checkout") as span:
            if seed is None:
                again = pb.FailRequest(code=14, message="again", failures=1)  # UNAVAILABLE
                await stub.Fail(again, timeout=20)
                answer = await stub.Inspect(pb.InspectRequest(), timeout=20)
                seen = answer.metadata["traceparent"]
            else:
                flow = pb.FlowRequest(width=2, depth=1, seed=seed, failures=1)
                await stub.Flow(flow, timeout=20)
            task = await mesh.submit(stub.Fail, pb.FailRequest(code=3, message="no", failures=1))
        await asyncio.wait([asyncio.ensure_future(task.result())])
        return {"trace": f"{span.get_span_context().trace_id:032x}", "seen": seen}


def main(seed: str | None) -> None:
    """Runs to the end."""
    plait.trace.configure("caller")
    sys.stdout.write(json.dumps({"event": "ready", **asyncio.run(call(seed))}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
