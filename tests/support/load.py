"""A load of keyed, ordered tasks; and, run as a program, a submitter that can be killed.

`python -m tests.support.load NAME COUNT` submits all and prints its readiness line when a fourth of
the results is there.
"""

import asyncio
import json
import sys
from collections.abc import Iterator

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc
from tests.support.requests import entry

ACCOUNTS = 20


def entries(name: str, count: int) -> Iterator[pb.AppendRequest]:
    """Entries of twenty accounts, by turns; those of an account in order."""
    for number in range(count):
        yield entry(f"{name}-{number % ACCOUNTS}", number // ACCOUNTS + 1)


class Load:
    """Submits entries at once and gathers their results."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.answers: dict[str, pb.AppendResponse] = {}
        self.ids: set[str] = set()
        self._moved = asyncio.Condition()

    async def run(self, client: plait.Client) -> None:
        """Submits all, and waits for all results. Raises the first task's error."""
        stub: echo_pb2_grpc.EchoServiceAsyncStub = echo_pb2_grpc.EchoServiceStub(client.channel())
        requests = list(entries(self.name, self.count))
        async with asyncio.TaskGroup() as group:
            number = 0
            async for task in client.submit_many(stub.Append, requests, window=512):
                self.ids.add(task.id)
                group.create_task(self._await(requests[number].entry.id, task))
                number += 1

    async def at_least(self, done: int) -> None:
        """Waits for so many results."""
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.answers) >= done)

    async def _await(self, key: str, task: plait.Task[pb.AppendResponse]) -> None:
        answer = await task.result()
        async with self._moved:
            assert key not in self.answers
            self.answers[key] = answer
            self._moved.notify_all()


async def _submit(name: str, count: int) -> None:
    load = Load(name, count)
    async with plait.connect() as client, asyncio.TaskGroup() as group:
        running = group.create_task(load.run(client))
        await load.at_least(count // 4)
        sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
        sys.stdout.flush()
        await running


if __name__ == "__main__":
    asyncio.run(_submit(sys.argv[1], int(sys.argv[2])))
