"""Limits of methods and of their keys, over all workers: what they hold is READY, costs no attempt,
stops nobody else, and begins by itself; they change while tasks wait, and survive the broker.
"""

import asyncio
import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import plait
from plait.v1 import task_pb2
from tests.support.mesh import Caller, Mesh
from tests.support.waiting import eventually

SERVICE = "limited.v1.LimitedService"
PATIENCE_S = 60.0
SOURCE = """
syntax = "proto3";
package limited.v1;
import "plait/v1/options.proto";

service LimitedService {
  rpc Hold(Request) returns (Response) { option (plait.v1.task) = { %(hold)s }; }
  rpc Tell(Request) returns (Response) { option (plait.v1.task) = { %(tell)s }; }
  rpc Send(Request) returns (Response) { option (plait.v1.task) = { %(send)s }; }
}

message Request {
  string key = 1;
}

message Response {
  string key = 1;
}
"""
# Of Send, in the first contract.
RATE, BURST = 40, 4
FIRST = {
    "hold": 'concurrency { limit: 5 key: "key" per_key_limit: 2 }',
    "tell": 'rate_limit { limit: 1 period { seconds: 86400 } key: "key" }',
    "send": f"rate_limit {{ limit: {RATE} burst: {BURST} }}",
}


async def command(*arguments: str) -> str:
    """What the command line says. Raises AssertionError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


def written(folder: Path, **policies: str) -> Path:
    """The contract's file, with these policies in place of the first ones."""
    file = folder / "limited/v1/limited.proto"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SOURCE % {**FIRST, **policies})
    return file


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The generated modules of the contract: messages, and services."""
    folder = tmp_path_factory.mktemp("contract")
    files = (str(written(folder)), "-I", str(folder), "--out", str(folder))
    subprocess.run([sys.executable, "-m", "plait.cli", "gen", *files], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        names = ("limited.v1.limited_pb2", "limited.v1.limited_pb2_grpc")
        messages, services = (importlib.import_module(name) for name in names)
    return messages, services


class Handler:
    """Hold runs until it is let go; the others answer at once."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.began = 0
        self.go = asyncio.Semaphore(0)

    async def Hold(self, request: Any, context: Any) -> Any:
        """Counts who is in it, by key and in all."""
        self.began += 1
        for group in (request.key, "all"):
            self.running[group] += 1
            self.most[group] = max(self.most[group], self.running[group])
        try:
            await self.go.acquire()
        finally:
            self.running.subtract((request.key, "all"))
        return await self.Tell(request, context)

    async def Tell(self, request: Any, context: Any) -> Any:
        """The key comes back."""
        del context
        return self.response(key=request.key)

    Send = Tell


class Limited:
    """A mesh with two workers of the contract, both in this process, and a client."""

    def __init__(self, mesh: Mesh, client: plait.Client, caller: Caller, code: Any) -> None:
        self.mesh, self.client, self.caller = mesh, client, caller
        self.messages, self.services = code
        self.stub = self.services.LimitedServiceStub(client.channel())
        self.handler = Handler(self.messages.Response)

    async def submit(self, method: str, keys: Iterable[str]) -> list[plait.Task[Any]]:
        """A task a key."""
        requests = (self.messages.Request(key=key) for key in keys)
        tasks = self.client.submit_many(getattr(self.stub, method), requests)
        return [task async for task in tasks]

    async def push(self, *arguments: str, **policies: str) -> None:
        """Puts other policies in force, by the command line."""
        file = written(self.mesh.folder, **policies)
        files = (str(file), "-I", str(self.mesh.folder), "--service", SERVICE)
        await command("contract", "push", *files, "--address", self.mesh.address, *arguments)

    async def queue(self) -> dict[str, Any]:
        """What `plait queue get` says."""
        said = ("-o", "json", "--address", self.mesh.address)
        found = json.loads(await command("queue", "get", SERVICE, *said))
        return dict(found.get("queue", found))

    async def held(self) -> dict[str, int]:
        """How many tasks are held, by which limit."""
        held = (await self.queue()).get("held", [])
        return {each["by"].removeprefix("HELD_BY_"): int(each["count"]) for each in held}

    async def runs(self, count: int) -> None:
        """Waits until so many run."""

        async def running() -> int:
            return self.handler.running["all"]

        await eventually(running, lambda found: found == count, PATIENCE_S)

    async def ready(self) -> int:
        """Tasks that wait."""
        return len(await self.caller.list("state = READY"))

    def release(self, count: int) -> None:
        """Lets so many end."""
        for _ in range(count):
            self.handler.go.release()


@asynccontextmanager
async def limited(mesh: Mesh, code: Any) -> AsyncIterator[Limited]:
    """Two workers over one client, and who looks on."""
    async with mesh.caller() as caller, plait.connect(mesh.address) as client:
        made = Limited(mesh, client, caller, code)
        async with asyncio.TaskGroup() as group:
            workers = [client.worker(concurrency=64) for _ in range(2)]
            for worker in workers:
                worker.serve(made.handler, made.services.add_LimitedServiceServicer_to_server)
                group.create_task(worker.run())
                await worker.attached()
            yield made
            for worker in workers:
                worker.stop()


async def test_no_more_run_than_may_while_the_limit_changes(fresh: Mesh, code: Any):
    async with limited(fresh, code) as it:
        tasks = await it.submit("Hold", ["a"] * 40 + ["b", "c"] * 10)
        await it.runs(5)
        assert await it.held() == {"CONCURRENCY": 55}
        assert await it.ready() == 55
        assert "held by concurrency" in await command(
            "queue", "get", SERVICE, "--address", fresh.address
        )
        assert it.handler.most["all"] == 5
        assert max(it.handler.most[key] for key in "abc") == 2
        # Loosened: what waits begins at once.
        await it.push(hold='concurrency { limit: 8 key: "key" per_key_limit: 3 }')
        await it.runs(8)
        # Tightened: what runs goes on, and nothing begins until there is room.
        await it.push(hold='concurrency { limit: 2 key: "key" per_key_limit: 1 }')
        it.release(6)
        await it.runs(2)
        assert await it.ready() == 52
        it.release(1)
        await eventually(it.ready, lambda count: count == 51, PATIENCE_S)
        assert (it.handler.most["all"], it.handler.most["a"]) == (8, 3)
        # Removed, and its key with it, which tasks that wait were given.
        await it.push("--allow", "no limit any more", hold="")
        await it.runs(53)
        assert await it.held() == {}
        it.release(60)
        assert len(await asyncio.gather(*(task.result() for task in tasks))) == 60
        assert it.handler.began == 60
        assert {task.attempt for task in await it.caller.list("")} == {1}


async def test_a_hot_key_holds_nobody_else(fresh: Mesh, code: Any):
    async with limited(fresh, code) as it:
        hot = await it.submit("Tell", ["hot"] * 200)
        others = await it.submit("Tell", [f"key {number}" for number in range(50)])
        await asyncio.gather(*(task.result() for task in others))
        await hot[0].result()
        assert await it.held() == {"KEY_RATE": 199}
        listed = await command("queue", "list", "--address", fresh.address)
        assert "199 held by limits" in listed
        # One of each key began today, and the broker remembers it.
        assert fresh.broker is not None
        await fresh.broker.kill()
        await fresh.start_broker()
        assert await eventually(it.held, lambda held: held != {}) == {"KEY_RATE": 199}
        await it.push("--allow", "no limit any more", tell="")
        await asyncio.gather(*(task.result() for task in hot))


async def started(caller: Caller) -> list[int]:
    """When attempts began on the broker's clock, in milliseconds."""
    found = []
    for task in await caller.list("state = SUCCEEDED"):
        events = (await caller.get(task.id, full=True)).events
        running = [each for each in events if each.state == task_pb2.TASK_STATE_RUNNING]
        found += [each.time.ToMilliseconds() for each in running]
    return sorted(found)


async def test_a_rate_holds_in_every_window_and_over_a_crash(fresh: Mesh, code: Any):
    async with limited(fresh, code) as it:
        tasks = await it.submit("Send", [""] * 60)
        await tasks[19].result()
        assert fresh.broker is not None
        await fresh.broker.kill()
        await fresh.start_broker()
        await asyncio.gather(*(task.result() for task in tasks))
        began = await started(it.caller)
        assert len(began) >= 60
        for first, start in enumerate(began):
            for last, end in enumerate(began[first:], first):
                most = BURST + RATE * (end - start + 1) / 1000
                assert last - first + 1 <= most, began
