"""Old and new builds: every client with every worker, each of the contract and of a later version.

The later version (`.ci/later.sh`) has a field more in Scalars. So a later client's task of that
method says what an earlier worker does not know; those of other methods are the same in both. All
of it happens in one mesh: each language's workers come and go, while the clients of both versions
of all languages stay.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from interop.runner import messages
from interop.runner.processes import Client, Mesh, Process, driver, later_driver
from interop.runner.report import Result
from plait.conformance.v1 import client_driver_pb2 as api
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as tasks_api

SUITE = "versions"
OLD, NEW = "old", "new"
ANSWER_S = 60.0
COUNT = 5
"""Tasks that a client submits at a time."""

KNOWN = messages.request("Echo", {"payload": "a25vd24="}).SerializeToString()
PLAIN = messages.request("Scalars", {"values": {"int32_value": 7}}).SerializeToString()
_NOTE = b"\xa2\x06\x04seen"  # field 100, of the later version
NOTED = bytes([PLAIN[0], PLAIN[1] + len(_NOTE)]) + PLAIN[2:] + _NOTE

CASES = (
    "old_client_and_old_worker",
    "old_client_and_new_worker",
    "old_client_and_both_workers",
    "new_client_and_old_worker",
    "new_client_and_new_worker",
    "new_client_and_both_workers",
    "unknown_field_and_old_worker",
    "unknown_field_and_new_worker",
)
"""The last two: an old client passes on what it does not know itself, and gets it back."""


class Unexpected(Exception):
    """What happened is not what the case expects; its text says both."""


@dataclass(slots=True)
class Caller:
    """A client of a version, and what it is asked to do with one language's workers."""

    language: str
    version: str
    client: Client
    mesh: Mesh
    held: Sequence[tuple[int, str]] = ()
    """Submissions that wait for a new worker: their numbers and tasks."""

    async def submit(self, method: str, request: bytes) -> list[tuple[int, str]]:
        """Submits some; answers the number and the task of each."""
        said = [api.Submission(method=method, request=request) for _ in range(COUNT)]
        asked = [await self.client.ask(api.ClientRequest(submit=each)) for each in said]
        return [(number, (await _well(answer)).tasks[0]) for number, answer in asked]

    async def finish(
        self, made: Sequence[tuple[int, str]], answered: bytes, by: Sequence[str]
    ) -> None:
        """Waits for results, and says who may have given them. Raises Unexpected."""
        for number, task in made:
            _, answer = await self.client.ask(api.ClientRequest(result=api.Handle(id=number)))
            (response,) = (await _well(answer)).responses
            if response != answered:
                raise Unexpected(f"{response.hex()} came back, not {answered.hex()}")
            ran = {event.worker for event in (await self.look(task)).events if event.worker}
            if not ran or not all(worker.startswith(tuple(by)) for worker in ran):
                raise Unexpected(f"{sorted(ran)} ran it, not {' or '.join(by)}")

    async def does(self, request: bytes, *by: str, method: str = "Scalars") -> None:
        """Submits some; each is answered with itself. Raises Unexpected."""
        await self.finish(await self.submit(method, request), request, by)

    async def look(self, task: str) -> task_pb2.Task:
        """A task as the broker tells it, with its events."""
        request = tasks_api.GetTaskRequest(id=task, view=task_pb2.TASK_VIEW_FULL)
        return (await self.mesh.tasks().GetTask(request, timeout=ANSWER_S)).task

    async def waits(self) -> None:
        """What is held has not begun. Raises Unexpected."""
        for _, task in self.held:
            found = await self.look(task)
            if found.state != task_pb2.TASK_STATE_READY or found.attempt:
                raise Unexpected(f"it is {found}, and does not wait for a new worker")


async def _well(answer: asyncio.Future[api.ClientResponse]) -> api.ClientResponse:
    said = await asyncio.wait_for(answer, ANSWER_S)
    if said.HasField("error"):
        raise Unexpected(f"{said.reason or said.error.code}: {said.error.message}")
    return said


class Round:
    """One language's workers come and go, and every client calls them."""

    def __init__(self, mesh: Mesh, language: str, callers: Sequence[Caller]) -> None:
        self._mesh = mesh
        self._language = language
        self._callers = callers
        # With these the ids of the workers begin.
        self._old, self._new = f"{language}-{OLD}", f"{language}-{NEW}"
        self._results: dict[tuple[str, str], Result] = {}

    async def run(self) -> list[Result]:
        """The old worker alone, then both, then the new one alone."""
        old = await self._mesh.start_beside(driver(self._language), self._old)
        await self._all(self._with_old)
        # By now the old worker has ended what was submitted after what is held.
        await self._all(self._still_held)
        new = await self._mesh.start_beside(later_driver(self._language), self._new)
        await self._all(self._with_both)
        await _ended(old)
        await self._all(self._with_new)
        await _ended(new)
        asked = itertools.product(dict.fromkeys(each.language for each in self._callers), CASES)
        return [self._results[pair] for pair in asked]

    async def _all(self, act: Callable[[Caller], Awaitable[None]]) -> None:
        await asyncio.gather(*(act(each) for each in self._callers))

    async def _with_old(self, caller: Caller) -> None:
        if caller.version == OLD:
            await self._case("old_client_and_old_worker", caller, caller.does(PLAIN, self._old))
            await self._case("unknown_field_and_old_worker", caller, caller.does(NOTED, self._old))
        else:
            await self._case("new_client_and_old_worker", caller, self._hold(caller))

    async def _hold(self, caller: Caller) -> None:
        caller.held = await caller.submit("Scalars", NOTED)
        # Of a method that both versions have alike.
        await caller.does(KNOWN, self._old, method="Echo")

    async def _still_held(self, caller: Caller) -> None:
        if caller.version == NEW:
            await self._case("new_client_and_old_worker", caller, caller.waits())

    async def _with_both(self, caller: Caller) -> None:
        if caller.version == OLD:
            does = caller.does(PLAIN, self._old, self._new)
            await self._case("old_client_and_both_workers", caller, does)
        else:
            held, caller.held = caller.held, ()
            finish = caller.finish(held, NOTED, (self._new,))
            await self._case("new_client_and_old_worker", caller, finish)
            await self._case("new_client_and_both_workers", caller, caller.does(NOTED, self._new))

    async def _with_new(self, caller: Caller) -> None:
        if caller.version == OLD:
            await self._case("old_client_and_new_worker", caller, caller.does(PLAIN, self._new))
            await self._case("unknown_field_and_new_worker", caller, caller.does(NOTED, self._new))
        else:
            await self._case("new_client_and_new_worker", caller, caller.does(NOTED, self._new))

    async def _case(self, name: str, caller: Caller, does: Awaitable[None]) -> None:
        """Notes how a case went; of several parts the first that failed."""
        began = time.monotonic()
        failure = None
        try:
            await does
        except (Unexpected, TimeoutError) as error:
            failure = str(error) or "no answer came in time"
        before = self._results.get((caller.language, name))
        if before is None or before.failure is None:
            self._results[caller.language, name] = Result(
                caller.language,
                self._language,
                f"{SUITE}/{name}",
                failure,
                time.monotonic() - began,
            )


async def _ended(worker: Process) -> None:
    code = await worker.terminate()
    if code != 0:
        raise AssertionError(f"a worker that was told to stop ended with {code}")


async def run(clients: Sequence[str], workers: Sequence[str], home: Path) -> list[Result]:
    """Every case with every pair."""
    results: list[Result] = []
    async with Mesh(home, None) as mesh, contextlib.AsyncExitStack() as opened:

        async def caller(language: str, version: str) -> Caller:
            spec = driver(language) if version == OLD else later_driver(language)
            log = home / f"client-{language}-{version}.log"
            client = await Client.start(spec, mesh.address, log)
            opened.push_async_callback(client.close)
            return Caller(language, version, client, mesh)

        each = [caller(language, version) for language in clients for version in (OLD, NEW)]
        callers = await asyncio.gather(*each)
        for worker in workers:
            began = time.monotonic()
            results += await Round(mesh, worker, callers).run()
            took = time.monotonic() - began
            print(f"old and new -> {worker}: {took:.1f} s", flush=True)
    return results
