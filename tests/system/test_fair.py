"""Latency classes and fair shares: what is critical finds a free slot whatever fills the others;
queues have starts by their weights, and tenants take turns, by weights if an operator gives them
some, also after the broker was killed.
"""

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import plait
from tests.support.mesh import Mesh
from tests.support.waiting import eventually

SLOTS = 8
BACKGROUND = 4
"""Of these; a quarter is kept for each of the two higher classes."""
HEAVY = "fair.v1.FairService/Heavy"
PATIENCE_S = 60.0
SOURCE = """
syntax = "proto3";
package fair.v1;
import "plait/v1/options.proto";

service FairService {
  rpc Quote(Request) returns (Response) {
    option (plait.v1.task) = { latency_class: LATENCY_CLASS_CRITICAL };
  }
  rpc Reindex(Request) returns (Response) {
    option (plait.v1.task) = { latency_class: LATENCY_CLASS_BACKGROUND };
  }
  rpc Heavy(Request) returns (Response) {
    option (plait.v1.task) = { queue: "heavy" queue_weight: 3 fairness_key: "key" };
  }
  rpc Light(Request) returns (Response) { option (plait.v1.task) = { queue: "light" }; }
}

message Request {
  string key = 1;
}

message Response {
  string key = 1;
}
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The generated modules of the contract: messages, and services."""
    folder = tmp_path_factory.mktemp("contract")
    file = folder / "fair/v1/fair.proto"
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE)
    files = (str(file), "-I", str(folder), "--out", str(folder))
    subprocess.run([sys.executable, "-m", "plait.cli", "gen", *files], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        names = ("fair.v1.fair_pb2", "fair.v1.fair_pb2_grpc")
        messages, services = (importlib.import_module(name) for name in names)
    return messages, services


class Handler:
    """Reindex runs until it is let go, Quote answers at once."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.running = 0
        self.began: list[str] = []
        self.go = asyncio.Semaphore(0)

    async def Reindex(self, request: Any, context: Any) -> Any:
        """Counts who is in it."""
        self.running += 1
        try:
            await self.go.acquire()
        finally:
            self.running -= 1
        return await self.Quote(request, context)

    async def Quote(self, request: Any, context: Any) -> Any:
        """The key comes back."""
        del context
        self.began.append(request.key)
        return self.response(key=request.key)

    async def Heavy(self, request: Any, context: Any) -> Any:
        """Told apart by its name."""
        self.began.append(f"heavy {request.key}")
        return self.response(key=request.key)

    Light = Quote


@asynccontextmanager
async def worker(
    mesh: Mesh, code: Any, slots: int = SLOTS
) -> AsyncIterator[tuple[Handler, Any, plait.Client]]:
    """A worker of the contract in this process, a stub, and their client."""
    messages, services = code
    handler = Handler(messages.Response)
    async with plait.connect(mesh.address) as client, asyncio.TaskGroup() as group:
        worker = client.worker(concurrency=slots)
        worker.serve(handler, services.add_FairServiceServicer_to_server)
        group.create_task(worker.run())
        await worker.attached()
        yield handler, services.FairServiceStub(client.channel()), client
        worker.stop()


async def test_what_is_critical_begins_at_once_beside_all_the_background_work(
    fresh: Mesh, code: Any
):
    messages, _ = code
    async with worker(fresh, code) as (handler, stub, client):
        requests = (messages.Request(key="background") for _ in range(40))
        tasks = [task async for task in client.submit_many(stub.Reindex, requests)]

        async def running() -> int:
            return handler.running

        await eventually(running, lambda count: count == BACKGROUND)
        # None of the others ends meanwhile: a slot is free for each.
        quotes = (stub.Quote(messages.Request(key=f"{n}"), timeout=20) for n in range(SLOTS))
        assert [(await quote).key for quote in quotes] == [f"{n}" for n in range(SLOTS)]
        assert handler.running == BACKGROUND
        assert "background" not in handler.began
        # And they hold nothing up for good.
        for _ in tasks:
            handler.go.release()
        await asyncio.gather(*(task.result() for task in tasks))


async def test_queues_share_by_weight_and_tenants_take_turns(fresh: Mesh, code: Any):
    messages, _ = code
    async with worker(fresh, code) as (_, stub, client):
        # The contract is known; what is submitted from here on waits.
        await stub.Quote(messages.Request(key="ready"), timeout=20)
    async with plait.connect(fresh.address) as client:
        stub = code[1].FairServiceStub(client.channel())
        keys = ["hot"] * 300 + ["a"] * 20 + ["b"] * 20
        requests = (messages.Request(key=key) for key in keys)
        tasks = [task async for task in client.submit_many(stub.Heavy, requests)]
        requests = (messages.Request(key="light") for _ in range(100))
        tasks += [task async for task in client.submit_many(stub.Light, requests)]
        assert fresh.broker is not None
        await fresh.broker.kill()
        await fresh.start_broker()
        async with worker(fresh, code, slots=1) as (handler, _, _):
            await asyncio.gather(*(task.result() for task in tasks))
    # Three starts of four, of which tenants have one in turn; what is ahead may be swapped.
    began = handler.began[:80]
    assert abs(began.count("light") - 20) <= 2
    assert all(abs(began.count(f"heavy {key}") - 20) <= 2 for key in ("hot", "a", "b"))


async def run(mesh: Mesh, *arguments: str) -> tuple[int, str, str]:
    """What the command line says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", *arguments, "--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def done(mesh: Mesh, *arguments: str) -> str:
    status, said, wrong = await run(mesh, *arguments)
    assert status == 0, wrong
    return said


async def submitted(mesh: Mesh, code: Any, keys: list[str]) -> None:
    messages, services = code
    async with plait.connect(mesh.address) as client:
        stub = services.FairServiceStub(client.channel())
        requests = (messages.Request(key=key) for key in keys)
        tasks = [task async for task in client.submit_many(stub.Heavy, requests)]
    assert len(tasks) == len(keys)


async def begun(mesh: Mesh, code: Any, count: int) -> list[str]:
    """What begins next, from a worker of one slot that goes then."""
    async with worker(mesh, code, slots=1) as (handler, _, _):

        async def heard() -> list[str]:
            return list(handler.began)

        await eventually(heard, lambda began: len(began) >= count, PATIENCE_S)
        return handler.began[:count]


def share(began: list[str], key: str) -> int:
    return began.count(f"heavy {key}")


@pytest.mark.timeout(180)
async def test_tenants_have_starts_by_the_weights_that_an_operator_gives(fresh: Mesh, code: Any):
    messages, _ = code
    async with worker(fresh, code) as (_, stub, _):
        # The contract is known; what is submitted from here on waits.
        await stub.Quote(messages.Request(key="ready"), timeout=20)
    await submitted(fresh, code, [key for _ in range(400) for key in ("acme", "other")])
    said = await done(fresh, *_set("acme", 3), "--reason", "they pay")
    assert said.startswith(f"{HEAVY} acme: weight 3, set by ")
    assert said.rstrip().endswith('("they pay")')
    began = await begun(fresh, code, 40)
    # What the worker has ahead may be swapped.
    assert abs(share(began, "acme") - 30) <= 2, began

    # Killed together; the broker knows the weights before it has a scheduler again.
    assert fresh.broker is not None
    assert fresh.scheduler is not None
    await fresh.scheduler.kill()
    await fresh.broker.kill()
    await fresh.start_broker()
    began = await begun(fresh, code, 40)
    assert abs(share(began, "acme") - 30) <= 2, began
    await fresh.start_scheduler()
    (listed,) = await _listed(fresh)
    assert (listed["key"], listed["weight"], listed["reason"]) == ("acme", 3, "they pay")

    # Turned around at run time, for a time.
    await done(fresh, *_set("other", 9), "--for", "1h")
    await done(fresh, "share", "clear", HEAVY, "--key", "acme")
    began = await begun(fresh, code, 40)
    assert abs(share(began, "other") - 36) <= 2, began
    await done(fresh, *_set("other", 9), "--for", "1s")
    await eventually(lambda: _listed(fresh), lambda found: not found, PATIENCE_S)
    began = await begun(fresh, code, 40)
    assert abs(share(began, "other") - 20) <= 2, began


async def test_what_cannot_hold_is_refused_with_its_reason(fresh: Mesh, code: Any):
    messages, _ = code
    async with worker(fresh, code) as (_, stub, _):
        await stub.Quote(messages.Request(key="ready"), timeout=20)
        status, _, wrong = await run(fresh, *_set("acme", 3, "fair.v1.FairService/No"))
        assert (status, "METHOD_UNKNOWN" in wrong) == (6, True), wrong
        status, _, wrong = await run(fresh, *_set("acme", 3, "fair.v1.FairService/Light"))
        assert (status, "names no fairness_key" in wrong) == (6, True), wrong
        status, _, wrong = await run(fresh, *_set("acme", 1001))
        assert status == 2, wrong
        status, _, wrong = await run(fresh, *_set("x" * 257, 3))
        assert (status, "key:" in wrong) == (2, True), wrong
        status, _, wrong = await run(fresh, "share", "clear", HEAVY, "--key", "nobody")
        assert (status, "SHARE_NOT_FOUND" in wrong) == (3, True), wrong
    assert await _listed(fresh) == []


def _set(key: str, weight: int, method: str = HEAVY) -> list[str]:
    return ["share", "set", method, "--key", key, "--weight", str(weight)]


async def _listed(mesh: Mesh) -> list[Any]:
    found = json.loads(await done(mesh, "share", "list", "-o", "json"))["shares"]
    assert isinstance(found, list)
    return found
