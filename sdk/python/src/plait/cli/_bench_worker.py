"""A worker process of `plait bench`: answers with the payload, until it is told to stop."""

import asyncio
import json
import sys
from typing import Any

import plait
from plait.cli import _bench_contract


async def _echo(request: Any, context: Any) -> Any:
    return request


async def _main(address: str, concurrency: int) -> None:
    async with plait.connect(address) as client:
        worker = client.worker(name="bench", concurrency=concurrency)
        worker.serve(_echo, _bench_contract.add_to_server)
        running = asyncio.create_task(worker.run())
        attached = asyncio.create_task(worker.attached())
        await asyncio.wait({running, attached}, return_when=asyncio.FIRST_COMPLETED)
        if attached.done():
            sys.stdout.write(json.dumps({"event": "ready", "address": address}) + "\n")
            sys.stdout.flush()
        await running


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
