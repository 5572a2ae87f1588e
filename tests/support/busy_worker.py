"""A worker whose Sleep keeps it busy, and whose Inspect answers at once.

    busy_worker.py SLOTS sleep
    busy_worker.py SLOTS burn
    busy_worker.py SLOTS burn-idle

Sleep takes as long as its request says: asleep, or burning a processor in a process of its own, one
for each slot, which with `idle` has a processor only while nobody else wants it.
"""

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc as rpc


def burn(seconds: float) -> None:
    """Takes so much of a processor's time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def give_way() -> None:
    """From now on this process runs where nobody else would."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Busy(rpc.EchoServiceServicer):
    """The two methods."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    async def Sleep(self, request: Any, context: Any) -> Any:
        """Takes its time."""
        seconds = request.duration.ToNanoseconds() / 1e9
        if self._pool:
            await asyncio.get_running_loop().run_in_executor(self._pool, burn, seconds)
        else:
            over = asyncio.Event()
            asyncio.get_running_loop().call_later(seconds, over.set)
            await over.wait()
        return pb.SleepResponse()

    async def Inspect(self, request: Any, context: Any) -> Any:
        """Takes none."""
        return pb.InspectResponse(attempt=plait.attempt().number)


async def main(slots: int, work: str) -> None:
    """Until SIGTERM."""
    pool = None
    if work != "sleep":
        pool = ProcessPoolExecutor(slots, initializer=give_way if work == "burn-idle" else None)
    if pool:
        # All of its processes are there before it is ready.
        await asyncio.gather(
            *(asyncio.get_running_loop().run_in_executor(pool, burn, 0.05) for _ in range(slots))
        )
    async with plait.connect() as client:
        worker = client.worker(concurrency=slots)
        kind: Any = Busy  # the other methods are not implemented
        worker.serve(kind(pool), rpc.add_EchoServiceServicer_to_server)
        running = asyncio.create_task(worker.run())
        await worker.attached()
        sys.stdout.write(json.dumps({"event": "ready", "worker": worker.id}) + "\n")
        sys.stdout.flush()
        await running
    if pool:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
