"""The door of metrics: HTTP/1.1, GET /metrics, on a port of its own. It answers on the event loop,
since what is told is the loops' own state, and knows no more of HTTP than it needs.
"""

import asyncio
import contextlib
from http import HTTPStatus

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

PATH = "/metrics"
# The request line and headers, bytes; Prometheus sends a few hundred.
HEAD_BYTES_MAX = 16 * 1024
# For asking and for taking the answer.
SECONDS_MAX = 5.0
# Connections at once; further ones are closed unanswered.
CONNECTIONS_MAX = 32
_END = b"\r\n\r\n"


class Door:
    """Answers each connection once."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, listen: str) -> str:
        """Listens, and returns the address with the port that it got. Raises RuntimeError where the
        address cannot be listened on.
        """
        host, _, port = listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._connected, host.strip("[]"), int(port), limit=HEAD_BYTES_MAX
            )
        except OSError as error:
            raise RuntimeError(f"metrics at {listen}: {error}") from error
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Listens no more. Those that are being answered are not waited for."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                await self._serve(reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever is too slow, says too much or goes away gets no answer.
        with contextlib.suppress(
            TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError
        ):
            async with asyncio.timeout(SECONDS_MAX):
                head = await reader.readuntil(_END)
                writer.write(self._answer(head))
                await writer.drain()

    def _answer(self, head: bytes) -> bytes:
        method, target, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
        if target.partition(b"?")[0] != PATH.encode():
            return _response(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}\n".encode())
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"metrics are to be read\n")
        body = generate_latest(self._registry)
        return _response(HTTPStatus.OK, body, with_body=method == b"GET")


def _response(status: HTTPStatus, body: bytes, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {CONTENT_TYPE_PLAIN_0_0_4}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
