"""testing.v1.EchoService as somebody writes it who never heard of Plait: grpcio and the contract.

    python interop/drivers/plain/plain_echo.py --listen 127.0.0.1:0 --journal FILE

It has a readiness line, server reflection and grpc.health.v1; SIGUSR1 makes it NOT_SERVING, SIGUSR2
SERVING again. What there is to know of an attempt it reads from the metadata. The journal has a
line for each call when it begins, when it is cancelled and when it ends; `--busy N` refuses what is
over N calls at once with RESOURCE_EXHAUSTED.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

ROOT = Path(__file__).parents[3]
SERVICE = "testing.v1.EchoService"
DETAILS_KEY = "grpc-status-details-bin"


def descriptors(contracts: Path = ROOT / "proto") -> descriptor_pb2.FileDescriptorSet:
    """The contract with all that it imports, straight from its source in a folder."""
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", "--include_imports"]
        command += [f"-I{contracts}", f"-I{ROOT / 'third_party'}"]
        command += [f"--descriptor_set_out={out.name}", "testing/v1/echo.proto"]
        subprocess.run(command, check=True)
        return descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())


class Echo:
    """The service; its methods are found by their names."""

    def __init__(self, pool: descriptor_pool.DescriptorPool, journal: Path | None, busy: int):
        self._pool = pool
        self._journal = journal
        self._busy = busy
        self._running = 0
        self._lines: Counter[str] = Counter()

    def handlers(self) -> grpc.GenericRpcHandler:
        """A handler for each method that is written below; others are UNIMPLEMENTED."""
        made = {}
        for method in self._pool.FindServiceByName(SERVICE).methods:
            if (handler := getattr(self, method.name, None)) is not None:
                request = message_factory.GetMessageClass(method.input_type)
                response = message_factory.GetMessageClass(method.output_type)
                made[method.name] = grpc.unary_unary_rpc_method_handler(
                    self._noted(method.name, handler, response),
                    request_deserializer=request.FromString,
                    response_serializer=response.SerializeToString,
                )
        return grpc.method_handlers_generic_handler(SERVICE, made)

    def _noted(
        self, name: str, handler: Callable[..., Awaitable[Any]], response: Any
    ) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            metadata = dict(context.invocation_metadata())
            with self._entry(name, metadata):
                if self._busy and self._running > self._busy:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "there is no more room")
                return response(**await handler(request, context, metadata))

        return call

    @contextlib.contextmanager
    def _entry(self, name: str, metadata: dict[str, Any]) -> Iterator[None]:
        self._running += 1
        self._note("begin", name, metadata)
        try:
            yield
        except asyncio.CancelledError:
            self._note("cancelled", name, metadata)
            raise
        finally:
            self._running -= 1
            self._note("end", name, metadata)

    def _note(self, event: str, name: str, metadata: dict[str, Any]) -> None:
        if self._journal is None:
            return
        task = metadata.get("plait-task-id", "")
        line = {"event": event, "method": name, "task": task, "running": self._running}
        line["attempt"] = int(metadata.get("plait-attempt", "0"))
        with self._journal.open("a") as journal:
            journal.write(json.dumps(line) + "\n")

    async def Echo(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        return {"payload": request.payload}

    async def Fail(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        attempt = int(metadata["plait-attempt"])
        if attempt > request.failures:
            return {"attempt": attempt}
        status = status_pb2.Status(code=request.code, message=request.message)
        for detail in details(request):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        trailers: tuple[tuple[str, str | bytes], ...] = ()
        if status.details:
            trailers += ((DETAILS_KEY, status.SerializeToString()),)
        if request.trailer:
            trailers += (("x-failed-by", request.trailer),)
        (code,) = [each for each in grpc.StatusCode if each.value[0] == request.code]
        await context.abort(code, request.message, trailers)
        raise AssertionError("abort raises")

    async def Sleep(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        await lapse(request.duration)
        return {}

    async def Append(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        self._lines[request.account] += 1
        return {"length": self._lines[request.account]}

    async def Once(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        await lapse(request.duration)
        return {}

    async def Scalars(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        return {"values": request.values} if request.HasField("values") else {}

    async def Inspect(self, request: Any, context: Any, metadata: dict[str, Any]) -> dict[str, Any]:
        left_ms = int(context.time_remaining() * 1000)
        return {
            "time_remaining": {"seconds": left_ms // 1000, "nanos": left_ms % 1000 * 1_000_000},
            "metadata": metadata,
            "attempt": int(metadata["plait-attempt"]),
            "task": metadata["plait-task-id"],
            "idempotency_key": metadata["plait-idempotency-key"],
            "fencing_token": int(metadata["plait-fencing-token"]),
        }


async def lapse(duration: Any) -> None:
    """Takes its time."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(duration.ToTimedelta().total_seconds(), over.set)
    await over.wait()


def details(request: Any) -> Iterator[Any]:
    """The details that the request asks for."""
    if request.HasField("retry_delay"):
        made = error_details_pb2.RetryInfo()
        made.retry_delay.FromTimedelta(request.retry_delay.ToTimedelta())
        yield made
    if request.violation:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=request.violation, description="as told"
        )
        yield error_details_pb2.BadRequest(field_violations=[violation])


async def serve(options: argparse.Namespace) -> None:
    """Serves until the process is told to stop."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors(options.contracts).file:
        pool.Add(file)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(pool, options.journal, options.busy).handlers(),))
    if options.reflection:
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server, pool)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port(options.listen)
    await server.start()

    loop, changes = asyncio.get_running_loop(), asyncio.Queue[int]()
    healths = health_pb2.HealthCheckResponse
    for number, healthy in (
        (signal.SIGUSR1, healths.NOT_SERVING),
        (signal.SIGUSR2, healths.SERVING),
    ):
        loop.add_signal_handler(number, changes.put_nowait, healthy)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    async def follow() -> None:
        while True:
            await status.set("", await changes.get())

    following = asyncio.create_task(follow(), name="health")
    address = f"{options.listen.rpartition(':')[0]}:{port}"
    sys.stdout.write(json.dumps({"event": "ready", "address": address, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    await stopped.wait()
    following.cancel()
    await server.stop(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--contracts", type=Path, default=ROOT / "proto")
    parser.add_argument("--no-reflection", dest="reflection", action="store_false")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
