"""One trace through callers, queues, attempts and children, the same in every language.

The tree is docs/protocol.md §7, from real OTLP of real processes.
"""

import sys
from pathlib import Path

from tests.support.mesh import WORKER_LANGUAGES, Mesh
from tests.system.otlp import Collector, Node, Span, tree

QUEUES = {"Flow": "echo.flow", "Echo": "echo", "Fail": "echo.fail", "Inspect": "echo"}
TOLD = "the flow was told to fail"


def submit(method: str, *children: Node, failed: str = "") -> Node:
    """The span of a submission."""
    attributes: dict[str, str | int] = {
        "messaging.system": "plait",
        "messaging.operation.type": "send",
        "messaging.destination.name": QUEUES[method],
        "messaging.message.id": "a task",
    }
    return _node(
        f"submit testing.v1.EchoService/{method}", "PRODUCER", attributes, failed, children
    )


def attempt(method: str, number: int, *children: Node, code: int = 0, failed: str = "") -> Node:
    """The span of an attempt."""
    attributes: dict[str, str | int] = {
        "messaging.system": "plait",
        "messaging.operation.type": "process",
        "messaging.destination.name": QUEUES[method],
        "messaging.message.id": "a task",
        "plait.attempt.number": number,
        "rpc.system.name": "grpc",
        "rpc.method": f"testing.v1.EchoService/{method}",
        "rpc.status_code": code,
    }
    name = f"attempt testing.v1.EchoService/{method}"
    return _node(name, "CONSUMER", attributes, failed, children)


def _node(
    name: str,
    kind: str,
    attributes: dict[str, str | int],
    failed: str,
    children: tuple[Node, ...],
) -> Node:
    status = "ERROR" if failed else "UNSET"
    return Node(name, kind, tuple(sorted(attributes.items())), status, failed, children)


async def traced(
    mesh: Mesh, collector: Collector, *arguments: str
) -> tuple[list[Span], dict[str, str]]:
    """The spans of one run of the caller, with all processes that export ended; and its words."""
    program = str(Path(__file__).with_name("traced_caller.py"))
    caller = await mesh.start("caller", [sys.executable, program, *arguments], collector.env)
    assert await caller.ended() == 0
    for worker in mesh.workers:
        assert await worker.terminate() == 0
    trace = bytes.fromhex(caller.ready["trace"])
    # One trace, and nothing beside it.
    assert {span.trace for span in collector.spans} == {trace}
    return collector.spans, caller.ready


def checkout(*children: Node) -> Node:
    """The caller's own span."""
    return Node("checkout", "INTERNAL", (), "UNSET", "", children)


async def test_the_tree_of_a_flow_is_the_same_in_every_language(
    fresh: Mesh, language: str, name: str
):
    async with Collector() as collector:
        await fresh.start_worker(language, env=collector.env)
        spans, _ = await traced(fresh, collector, name)
    (root,) = [span for span in spans if not span.parent]
    in_a_row = f"{name}/0"
    first_run = [
        submit("Echo", attempt("Echo", 1)),
        submit("Echo", attempt("Echo", 1)),
        submit("Fail", attempt("Fail", 1, code=14, failed=in_a_row), attempt("Fail", 2)),
    ]
    # The second run is answered from the record: it asks, and nothing runs.
    second_run = [submit("Echo"), submit("Echo"), submit("Fail")]
    expected = checkout(
        submit(
            "Flow",
            attempt("Flow", 1, *first_run, code=14, failed=TOLD),
            attempt("Flow", 2, *second_run),
        ),
        submit("Fail", attempt("Fail", 1, code=3, failed="no")),
    )
    assert tree(spans, root) == expected
    assert_times_and_tasks(spans, language)


def assert_times_and_tasks(spans: list[Span], language: str) -> None:
    """Who made which span, which task it is about, and that it covers what it says."""
    worker = "sidecar" if language == "sidecar" else f"echo-{language}"
    by_id = {span.id: span for span in spans}
    for span in spans:
        if not span.parent:
            continue
        parent = by_id[span.parent]
        assert span.start >= parent.start
        if span.name.startswith("attempt "):
            assert span.service == worker
            assert parent.name == span.name.replace("attempt ", "submit ")
            assert span.task == parent.task
        else:
            in_flow = parent.name.startswith("attempt ")
            assert span.service == (worker if in_flow else "caller")
            assert span.end <= parent.end
    # A call lasts to its result, retries and all; a submission to its acceptance.
    *calls, handle = sorted(
        (s for s in spans if s.service == "caller" and s.parent), key=lambda s: s.start
    )
    for call in calls:
        assert call.end >= max(s.end for s in spans if s.parent == call.id)
    assert handle.end - handle.start < 10**9


async def test_one_trace_goes_through_workers_of_all_languages(fresh: Mesh, name: str):
    async with Collector() as collector:
        for language in WORKER_LANGUAGES:
            await fresh.start_worker(language, concurrency=1, env=collector.env)
        spans, _ = await traced(fresh, collector, name)
        by_id = {span.id: span for span in spans}
        assert all(span.parent in by_id for span in spans if span.parent)
        attempts = [span for span in spans if span.name.startswith("attempt ")]
        assert {by_id[span.parent].task for span in attempts} == {span.task for span in attempts}
        # Seven attempts over three workers with one slot each: it crosses from one to another.
        assert len({span.service for span in attempts}) > 1
