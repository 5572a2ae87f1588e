"""An echo worker whose Append has an effect that is easy to check: rows in SQLite.

Each execution is noted with its key and fencing token; the effect is made once a key, as a ledger
does it. `python ledger_worker.py DATABASE`.
"""

import asyncio
import json
import sqlite3
import sys
from typing import Any

import grpc

import plait
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS executions (key TEXT, token INTEGER, UNIQUE (key, token));
CREATE TABLE IF NOT EXISTS effects (
    place INTEGER PRIMARY KEY, key TEXT UNIQUE, account TEXT, number INTEGER
);
"""


class Ledger(echo_pb2_grpc.EchoServiceServicer):
    """Serves Append only."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=10, isolation_level="IMMEDIATE")
        self._database.executescript(_SCHEMA)

    async def Append(
        self, request: pb.AppendRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AppendResponse:
        attempt = plait.attempt()
        row = (attempt.idempotency_key, request.account, request.entry.number)
        with self._database as transaction:
            transaction.execute(
                "INSERT INTO executions VALUES (?, ?)",
                (attempt.idempotency_key, attempt.fencing_token),
            )
            transaction.execute(
                "INSERT OR IGNORE INTO effects (key, account, number) VALUES (?, ?, ?)",
                row,
            )
        return pb.AppendResponse(length=request.entry.number)


async def serve(path: str) -> None:
    """Serves until the process is told to stop."""
    async with plait.connect() as mesh:
        worker = mesh.worker(name="ledger", concurrency=16)
        ledger = Ledger(path)  # type: ignore[abstract]  # what it leaves out is not served
        worker.serve(ledger, echo_pb2_grpc.add_EchoServiceServicer_to_server)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run())
            await asyncio.wait(
                {running, group.create_task(worker.attached())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
