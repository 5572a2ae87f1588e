"""The Python worker of the airport example: serves airport.v1.SettlementService."""

from __future__ import annotations

import argparse
import asyncio

import plait
from airport.flows import Settlement
from airport.v1 import settlement_pb2_grpc as rpc


async def serve(concurrency: int) -> None:
    """Serves the flows until the process is told to stop."""
    plait.trace.configure("airport-orchestrator")
    async with plait.connect() as mesh:
        worker = mesh.worker(name="airport-orchestrator", concurrency=concurrency)
        worker.serve(Settlement(mesh.channel()), rpc.add_SettlementServiceServicer_to_server)
        await worker.run()


def main() -> None:
    """Runs the worker; `--concurrency` is how many flows it has in hand at once."""
    parser = argparse.ArgumentParser(prog="airport-orchestrator", description=__doc__)
    parser.add_argument("--concurrency", type=int, default=16, help="flows at once (default 16)")
    asyncio.run(serve(parser.parse_args().concurrency))


if __name__ == "__main__":
    main()
