"""A worker of fault.proto. It notes each attempt in a journal before it does what it is told.

`python -m tests.fault.worker JOURNAL`: a line an event, `method key attempt token begun|ended`.
"""

import asyncio
import os
import resource
import sys
from typing import Any

import grpc

import plait
from tests.fault.contract import messages, stubs

_CHUNK = 16 << 20
_ROOM = 512 << 20
"""What a process may take on top of what it has."""


class Fault(stubs().FaultServiceServicer):  # type: ignore[misc]  # made at run time
    """The service."""

    def __init__(self, journal: str) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def Keep(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self._note("Keep", request.key, "begun")
        if request.fail:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{request.key} was to fail")
        return messages().KeepResponse(payload=request.payload)

    async def Wait(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self._note("Wait", request.key, "begun")
        await _pause(request.duration.ToTimedelta().total_seconds())
        self._note("Wait", request.key, "ended")
        return messages().WaitResponse(token=plait.attempt().fencing_token)

    async def Poison(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self._note("Poison", request.how, "begun")
        if request.how == "abort":
            os.abort()
        if request.how == "eat":
            _eat()
        await asyncio.get_running_loop().create_future()

    def _note(self, method: str, key: str, what: str) -> None:
        attempt = plait.attempt()
        line = f"{method}\t{key}\t{attempt.number}\t{attempt.fencing_token}\t{what}\n"
        os.write(self._journal, line.encode())


async def _pause(seconds: float) -> None:
    """Not to be woken early by a clock that is stepped: the loop's clock is monotonic."""
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, over.set_result, None)
    await over


def _eat() -> None:
    """Takes memory until the limit of the process is reached, and dies of it as a process does
    that cannot go on."""
    with open("/proc/self/statm") as statm:
        limit = int(statm.read().split()[0]) * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kept = []
    try:
        while True:
            kept.append(b"x" * _CHUNK)
    except MemoryError:
        os.abort()


async def serve(journal: str) -> None:
    """Serves until the process is told to stop."""
    async with plait.connect() as mesh:
        worker = mesh.worker(name="fault", concurrency=8)
        worker.serve(Fault(journal), stubs().add_FaultServiceServicer_to_server)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run())
            await asyncio.wait(
                {running, group.create_task(worker.attached())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            sys.stdout.write('{"event":"ready"}\n')
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
