"""A TCP proxy that can stall, swallow, cut and slow down what goes through it."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.support.waiting import elapse

_CHUNK = 16 * 1024


class _Link:
    """One connection through the proxy. It keeps the fate it had when it was struck."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.swallows = False
        self.writers: list[asyncio.StreamWriter] = []


class Proxy:
    """Listens on a free port of the loopback interface and forwards to `target`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes_per_s = 0
        self.address = ""
        """Where it listens."""
        self.accepted = 0
        """Connections so far."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._bytes_per_s = 0
        self.resume()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stall(self) -> None:
        """Nothing goes through the connections there are, until `resume`; nothing is lost."""
        for link in self._links:
            link.flows.clear()

    def resume(self) -> None:
        """Undoes `stall`."""
        for link in self._links:
            link.flows.set()

    def swallow(self) -> None:
        """The connections there are become half-open: they stay, and nothing ever comes through
        again. New ones are as they should be."""
        for link in self._links:
            link.swallows = True

    def cut(self) -> None:
        """Resets the connections there are."""
        for link in self._links:
            for writer in link.writers:
                writer.transport.abort()

    def slow(self, bytes_per_s: int) -> None:
        """So many bytes a second go through, each way, each connection; 0: as many as come."""
        self._bytes_per_s = bytes_per_s

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link()
        link.writers.append(writer)
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        link.writers.append(back)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, back)),
            asyncio.ensure_future(self._pump(link, there, writer)),
        ]
        try:
            # Either side's end is the end of both.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for each in link.writers:
                each.transport.abort()
            self._links.discard(link)
            self._tasks.discard(task)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                await link.flows.wait()
                if link.swallows:
                    continue
                if self._bytes_per_s:
                    await elapse(len(data) / self._bytes_per_s)
                writer.write(data)
                await writer.drain()
