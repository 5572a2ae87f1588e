"""Connections that stall, slow down, are cut, or go half-open."""

import asyncio
import contextlib
from pathlib import Path

from tests.fault import network
from tests.fault.conftest import clean
from tests.fault.proxy import Proxy


async def test_what_the_network_does_is_survived(tmp_path: Path):
    clean(await network.campaign(7, tmp_path))


def test_every_kind_is_tried():
    chosen = network.strikes(40)
    assert len(chosen) == 40
    assert len(set(chosen)) == 8
    assert len(set(network.strikes(7))) == 7


async def test_the_proxy_does_what_it_is_told():
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(address(server)) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
        writer.write(b"there and back")
        assert await reader.readexactly(14) == b"there and back"
        proxy.stall()
        writer.write(b"later")
        waiting = asyncio.ensure_future(reader.readexactly(5))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        proxy.resume()
        assert await waiting == b"later"
        proxy.cut()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert proxy.accepted == 1


def address(server: asyncio.Server) -> str:
    """Where it listens."""
    return "{}:{}".format(*server.sockets[0].getsockname()[:2])
