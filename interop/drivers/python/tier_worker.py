"""A worker in the middle of a chain: it serves one method of testing.v1.EchoService by calling
another one, and answers with the milliseconds that were left to it and to those below."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import grpc

import plait
from plait import breaker, limiter
from testing.v1 import echo_pb2 as pb
from testing.v1 import echo_pb2_grpc as rpc


class Tier:
    """What a handler does, whichever method it is."""

    def __init__(self, direct: Any, durable: Any, call: str) -> None:
        self._direct = direct
        self._durable = durable
        self._call = call

    async def below(self, context: Any, how: bytes = b"") -> str:
        """Calls the next tier, as a task where it is told "durable"; a failure of it is this
        one's."""
        left_ms = int((plait.deadline.remaining() or 0) * 1000)
        stub = self._durable if how == b"durable" else self._direct
        try:
            return json.dumps([left_ms, *await self._lefts(stub)])
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", details_of(error))
            raise

    async def _lefts(self, stub: Any) -> list[int]:
        if self._call == "Scalars":
            answer = await stub.Scalars(pb.ScalarsRequest())
            return list(json.loads(answer.values.string_value))
        if self._call == "Inspect":
            found = await stub.Inspect(pb.InspectRequest())
            return [found.time_remaining.ToMilliseconds()]
        await stub.Fail(pb.FailRequest())
        return []


def servicer(tier: Tier, serve: str) -> rpc.EchoServiceServicer:
    """A servicer of one method."""

    async def echo(self: Any, request: pb.EchoRequest, context: Any) -> pb.EchoResponse:
        return pb.EchoResponse(payload=(await tier.below(context, request.payload)).encode())

    async def scalars(self: Any, request: pb.ScalarsRequest, context: Any) -> pb.ScalarsResponse:
        text = await tier.below(context)
        return pb.ScalarsResponse(values=pb.Scalars(string_value=text))

    handler = {"Echo": echo, "Scalars": scalars}[serve]
    made: Any = type("Servicer", (rpc.EchoServiceServicer,), {serve: handler})
    made.__abstractmethods__ = frozenset()
    found: rpc.EchoServiceServicer = made()
    return found


def details_of(error: grpc.aio.AioRpcError) -> tuple[Any, ...]:
    """The details as the next tier sent them."""
    trailers = error.trailing_metadata() or ()
    return tuple(pair for pair in trailers if pair[0] == "grpc-status-details-bin")


def options_of(text: str) -> plait.DirectOptions:
    """Options of the channel, from JSON."""
    said = json.loads(text)
    for name, config in (("breaker", breaker.Config), ("limiter", limiter.Config)):
        if said.get(name) is not None:
            said[name] = config(**said[name])
    if "hedge_delay_ms" in said:
        said["hedge_delay"] = said.pop("hedge_delay_ms") / 1000
    found: plait.DirectOptions = said
    return found


async def serve(said: argparse.Namespace) -> None:
    """Serves until the process is told to stop."""
    async with plait.connect() as mesh:
        direct = rpc.EchoServiceStub(mesh.direct(**options_of(said.options)))
        worker = mesh.worker(name=f"tier-{said.serve}", version="tier", listen="127.0.0.1:0")
        tier = Tier(direct, rpc.EchoServiceStub(mesh.channel()), said.call)
        worker.serve(servicer(tier, said.serve), rpc.add_EchoServiceServicer_to_server)
        running = asyncio.ensure_future(worker.run())
        await asyncio.wait(
            {running, asyncio.ensure_future(worker.attached())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
        sys.stdout.flush()
        await running


def main() -> None:
    parser = argparse.ArgumentParser(prog="tier-python", description=__doc__)
    parser.add_argument("--serve", choices=["Echo", "Scalars"], required=True)
    parser.add_argument("--call", choices=["Scalars", "Fail", "Inspect"], required=True)
    parser.add_argument("--options", default="{}", help="of the direct channel, in JSON")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
