"""The sidecar's spans are those of any worker and any submitter, from real OTLP (protocol §7)."""

import grpc
import pytest

from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc
from tests.support.mesh import Mesh
from tests.support.sidecar import Plain, start_sidecar
from tests.system.otlp import Collector, tree
from tests.system.test_traces import assert_times_and_tasks, attempt, checkout, submit, traced

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "v=1"))
INSPECTED = "attempt testing.v1.EchoService/Inspect"
PATIENT_S = 40


async def test_its_attempts_are_spans_of_a_worker_and_the_servers_parents(fresh: Mesh):
    async with Collector() as collector:
        plain = await Plain.start(fresh)
        await start_sidecar(fresh, plain.address, env=collector.env)
        spans, told = await traced(fresh, collector)
    (root,) = [span for span in spans if not span.parent]
    assert tree(spans, root) == checkout(
        submit("Fail", attempt("Fail", 1, code=14, failed="again"), attempt("Fail", 2)),
        submit("Inspect", attempt("Inspect", 1)),
        submit("Fail", attempt("Fail", 1, code=3, failed="no")),
    )
    assert_times_and_tasks(spans, "sidecar")
    (inspected,) = [span for span in spans if span.name == INSPECTED]
    # The flags after it are the caller's: sampled, and random where its library says so.
    assert told["seen"].startswith(f"00-{inspected.trace.hex()}-{inspected.id.hex()}-")


async def test_a_call_at_its_door_is_the_span_of_a_submission(fresh: Mesh):
    """A plain client's own span is its parent, and it covers all attempts."""
    async with Collector() as collector:
        plain = await Plain.start(fresh)
        door = await start_sidecar(fresh, plain.address, "--listen", ":0", env=collector.env)
        async with grpc.aio.insecure_channel(door.address) as channel:
            echo = echo_pb2_grpc.EchoServiceStub(channel)
            once = pb.FailRequest(code=14, message="again", failures=1)  # UNAVAILABLE
            await echo.Fail(once, timeout=PATIENT_S, metadata=GIVEN)
            call = echo.Inspect(pb.InspectRequest(), timeout=PATIENT_S, metadata=GIVEN)
            seen = (await call).metadata
            no = pb.FailRequest(code=3, message="no", failures=9)
            with pytest.raises(grpc.aio.AioRpcError):
                await echo.Fail(no, timeout=PATIENT_S, metadata=GIVEN)
        assert await door.terminate() == 0
    spans = collector.spans
    assert {(span.service, span.trace.hex()) for span in spans} == {("sidecar", TRACE)}
    roots = [span for span in spans if span.parent.hex() == SPAN]
    assert [tree(spans, root) for root in sorted(roots, key=lambda each: each.start)] == [
        submit("Fail", attempt("Fail", 1, code=14, failed="again"), attempt("Fail", 2)),
        submit("Inspect", attempt("Inspect", 1)),
        submit("Fail", attempt("Fail", 1, code=3, failed="no"), failed="no"),
    ]
    by_parent = {span.parent: span for span in spans}
    for root in roots:
        assert by_parent[root.id].task == root.task
        assert root.end >= max(span.end for span in spans if span.parent == root.id)
    (inspected,) = [span for span in spans if span.name == INSPECTED]
    assert seen["traceparent"] == f"00-{TRACE}-{inspected.id.hex()}-01"
    assert seen["tracestate"] == "v=1"
    answered = dict(await call.initial_metadata() or ())
    assert answered["plait-task-id"] == inspected.task


async def test_a_call_at_its_door_with_no_context_begins_a_trace(fresh: Mesh):
    async with Collector() as collector:
        plain = await Plain.start(fresh)
        door = await start_sidecar(fresh, plain.address, "--listen", ":0", env=collector.env)
        async with grpc.aio.insecure_channel(door.address) as channel:
            stub = echo_pb2_grpc.EchoServiceStub(channel)
            await stub.Inspect(pb.InspectRequest(), timeout=PATIENT_S)
        assert await door.terminate() == 0
    (root,) = [span for span in collector.spans if not span.parent]
    assert tree(collector.spans, root) == submit("Inspect", attempt("Inspect", 1))


async def test_without_tracing_its_door_passes_the_context_on(fresh: Mesh):
    plain = await Plain.start(fresh)
    door = await start_sidecar(fresh, plain.address, "--listen", ":0")
    async with grpc.aio.insecure_channel(door.address) as channel:
        stub = echo_pb2_grpc.EchoServiceStub(channel)
        seen = await stub.Inspect(pb.InspectRequest(), timeout=PATIENT_S, metadata=GIVEN)
    assert (seen.metadata["traceparent"], seen.metadata["tracestate"]) == (GIVEN[0][1], "v=1")
