"""A steady stream of tasks while things break, and what became of each.

Entries of accounts (keyed, ordered, noted by the workers in a journal) and echoes (their answer is
known), at most `window` unfinished at once. It goes on until it is stopped; then everything that
was acknowledged has its result.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc
from tests.fault.history import APPEND, ECHO, History
from tests.support.requests import entry
from tests.support.waiting import elapse

ECHO_KEPT_S = 30.0
"""The contract keeps the result of an echo for so long. On a machine that starves this process for
longer it may be gone, which is as promised; sooner it may not."""


class Traffic:
    """Submits until stopped and keeps what was acknowledged and answered."""

    def __init__(
        self,
        name: str,
        *,
        window: int = 256,
        accounts: int = 64,
        payload: int = 200,
        pause_s: float = 0.0,
        history: History | None = None,
    ) -> None:
        """`payload`: bytes of an echo; `pause_s`: between two submissions of a kind; `history`:
        where all of it is told, too."""
        self.name = name
        self.accounts = accounts
        self.entries: dict[str, str] = {}
        """The task of each acknowledged entry, by key."""
        self.lengths: dict[str, int] = {}
        """The answer of each entry, by key."""
        self.echoes = 0
        self.failures: list[str] = []
        self.unread = 0
        """Echoes whose result was dropped before it was read; see ECHO_KEPT_S."""
        self.ended = 0
        self.acknowledged = 0
        self._history = history
        self._payload = payload
        self._pause_s = pause_s
        self._window = window
        self._room = asyncio.Semaphore(window)
        self._stopped = asyncio.Event()
        self._moved = asyncio.Condition()
        self._lines: defaultdict[str, int] = defaultdict(int)

    async def run(self, client: plait.Client) -> None:
        """Submits until `stop`, then waits for every result."""
        stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(client.channel())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._append(client, stub, group))
            group.create_task(self._echo(client, stub, group))

    def stop(self) -> None:
        """Submits no more."""
        self._stopped.set()

    async def progress(self, results: int) -> None:
        """Waits for so many further results."""
        wanted = self.ended + results
        async with self._moved:
            await self._moved.wait_for(lambda: self.ended >= wanted)

    async def _append(self, client: plait.Client, stub: Any, group: asyncio.TaskGroup) -> None:
        keys: list[str] = []
        asked: list[int] = []

        async def requests() -> AsyncIterator[pb.AppendRequest]:
            for number in itertools.count():
                if not await self._go():
                    return
                account = f"{self.name}-{number % self.accounts}"
                self._lines[account] += 1
                request = entry(account, self._lines[account])
                keys.append(request.entry.id)
                asked.append(self._ask(APPEND, number, key=keys[-1], order=account))
                yield request

        number = 0
        async for task in client.submit_many(stub.Append, requests(), window=self._window):
            key = keys[number]
            self.entries[key] = task.id
            self._accept(asked[number], task)
            number += 1
            group.create_task(self._await_entry(key, task))

    async def _echo(self, client: plait.Client, stub: Any, group: asyncio.TaskGroup) -> None:
        payloads: list[bytes] = []
        asked: list[int] = []

        async def requests() -> AsyncIterator[pb.EchoRequest]:
            for number in itertools.count():
                if not await self._go():
                    return
                payload = f"{self.name}/{number}/".encode()
                payloads.append(payload + b"." * (self._payload - len(payload)))
                asked.append(self._ask(ECHO, number))
                yield pb.EchoRequest(payload=payloads[-1])

        number = 0
        async for task in client.submit_many(stub.Echo, requests(), window=self._window):
            self._accept(asked[number], task)
            group.create_task(self._await_echo(payloads[number], task))
            payloads[number] = b""
            number += 1

    async def _go(self) -> bool:
        """Waits for room; answers whether to submit one more."""
        if self._stopped.is_set():
            return False
        await self._room.acquire()
        if self._pause_s:
            await elapse(self._pause_s)
        return not self._stopped.is_set()

    async def _await_entry(self, key: str, task: plait.Task[pb.AppendResponse]) -> None:
        try:
            self.lengths[key] = (await task.result()).length
            self._tell(task, "SUCCEEDED", digest=str(self.lengths[key]))
        except grpc.aio.AioRpcError as error:
            self._tell(task, "FAILED", code=error.code().value[0])
            self.failures.append(f"{key}: {error.code().name} {error.details()}")
        await self._one_more()

    async def _await_echo(self, payload: bytes, task: plait.Task[pb.EchoResponse]) -> None:
        accepted = time.monotonic()
        try:
            answer = await task.result()
            self._tell(task, "SUCCEEDED")
            if answer.payload != payload:
                self.failures.append(f"{task.id}: another answer than {payload[:40]!r}")
            self.echoes += 1
        except grpc.aio.AioRpcError as error:
            gone = error.code() is grpc.StatusCode.NOT_FOUND
            self._tell(task, "NOT_FOUND" if gone else "FAILED", code=error.code().value[0])
            if gone and time.monotonic() - accepted > ECHO_KEPT_S:
                self.unread += 1
            else:
                self.failures.append(f"{task.id}: {error.code().name} {error.details()}")
        await self._one_more()

    def _ask(self, method: str, number: int, **fields: str) -> int:
        if self._history is None:
            return 0
        client = f"{self.name} {method}"
        return self._history.asked(method, client, place=(number + 1, 0), **fields)

    def _accept(self, asked: int, task: plait.Task[Any]) -> None:
        self.acknowledged += 1
        if self._history is not None:
            self._history.acknowledged(asked, task.id)

    def _tell(self, task: plait.Task[Any], state: str, **fields: Any) -> None:
        if self._history is not None:
            self._history.ended(task.id, state, **fields)

    async def _one_more(self) -> None:
        self._room.release()
        async with self._moved:
            self.ended += 1
            self._moved.notify_all()
