"""A worker: runs the handlers of generated services for the tasks that the broker hands out."""

import asyncio
import contextlib
import functools
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from plait import retry
from plait._attach import Attachment
from plait._channel import Core
from plait._descriptors import descriptor_set, find_service
from plait._flags import Board
from plait._holdings import Holdings
from plait._listener import Listener, Registration, checked
from plait._served import Registry, Served
from plait._signals import stopping
from plait._threads import Threads
from plait._wire import CLIENT
from plait.v1 import contract_service_pb2, contract_service_pb2_grpc, worker_service_pb2

_log = logging.getLogger("plait.worker")

S = TypeVar("S")

DEFAULT_CONCURRENCY: Final = 256
"""Handlers at once where all are coroutines: enough for whole frames, and a waiting coroutine is
cheap."""
DEFAULT_GRACE_S: Final = 30.0

# How long the broker is given to end the stream when everything is settled.
_GOODBYE_S: Final = 2.0


class Worker:
    """Serves methods as tasks. Made by `Client.worker`; attaches when it is run."""

    def __init__(
        self,
        core: Core,
        peer: str,
        *,
        concurrency: int | None,
        name: str | None,
        version: str,
        grace: float,
        listen: str | None = None,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency is at least 1, not {concurrency}")
        self._core = core
        self._channel = core.channel
        self._peer = peer
        self._concurrency = concurrency
        # A supervisor knows by it which of its processes a worker is.
        host = os.environ.get("PLAIT_PROCESS") or socket.gethostname()
        host = re.sub(r"[^A-Za-z0-9._:-]", "-", host[:32])
        self.id = f"{host}-{os.getpid()}-{secrets.token_hex(6)}"
        self._name = name or self.id
        self._version = version
        self._grace = grace
        self._registry = Registry()
        self._flags = Board()
        self._listen = None if listen is None else checked(listen)
        self._registrations: list[Registration] = []
        self._endpoint: str | None = None
        self._stop: asyncio.Event = asyncio.Event()
        self._stop_now: asyncio.Event = asyncio.Event()
        self._attached: asyncio.Event = asyncio.Event()
        self._started = False
        self._running: asyncio.Task[None] | None = None

    def serve(self, servicer: S, add_to_server: Callable[[S, Any], None]) -> "Worker":
        """Registers a servicer by the function that protoc generated, `add_XServicer_to_server`.

        Handlers may be coroutine functions or plain functions; the latter run in threads. Methods
        that the servicer
        leaves to its generated base class are not served. Raises ValueError for a method that
        streams, and for one
        that is served already. Answers the worker.
        """
        if self._started:
            raise RuntimeError("the worker runs; serve everything before")
        add_to_server(servicer, self._registry)
        self._registrations.append(functools.partial(add_to_server, servicer))
        return self

    @property
    def endpoint(self) -> str | None:
        """Where its methods can be called directly, "host:port"; None before it runs, and for one
        that listens nowhere."""
        return self._endpoint

    async def run(self) -> None:
        """Serves until SIGTERM, SIGINT or `stop()`, then drains.

        Draining takes no more, hands back what has not started, and lets running handlers finish
        within the grace.
        A second signal means now. Survives any loss of the broker. Raises AioRpcError when the
        contract or the worker
        is refused.
        """
        with stopping(self.stop):
            await self._serve()

    def stop(self) -> None:
        """Drains, and ends `run`. A second call means now."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def attached(self) -> None:
        """Returns when the worker is attached, and so its methods are known."""
        await self._attached.wait()

    async def __aenter__(self) -> "Worker":
        """Runs the worker in the background, without minding signals; answers when it is
        attached."""
        self._running = asyncio.create_task(self._serve(), name="plait-worker")
        ready = asyncio.create_task(self.attached(), name="plait-worker-ready")
        await asyncio.wait({self._running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            ready.cancel()
            self._running.result()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        assert self._running is not None
        await self._running

    async def _serve(self) -> None:
        if not self._registry.methods:
            raise RuntimeError("nothing is served; call serve() before")
        if self._started:
            raise RuntimeError("a worker runs once")
        self._started = True
        plain = any(not each.is_async for each in self._registry.methods.values())
        slots = self._concurrency or (_default_threads() if plain else DEFAULT_CONCURRENCY)
        threads = Threads(slots, asyncio.get_running_loop()) if plain else None
        hello = worker_service_pb2.WorkerHello(
            worker=self.id,
            name=self._name,
            version=self._version,
            client=CLIENT,
            slots=slots,
        )
        listener = await self._open_listener(hello, slots)
        attachment = Attachment(self._channel, hello, self._attached)
        served: list[Served] = []
        holdings = Holdings(served, slots, threads, self._core, attachment.wake)
        holdings.peer = self._peer
        holdings.flags = self._flags
        announce = functools.partial(self._announce, hello, served)
        stream = asyncio.create_task(attachment.run(holdings, announce), name="plait-attach")
        try:
            await _first(stream, self._stop.wait())
            if not stream.done():
                # Should it attach again meanwhile, nobody is to be sent here.
                hello.endpoint = ""
                draining = self._drain(stream, holdings, attachment)
                if listener is None:
                    await draining
                else:
                    stopping = listener.stop(self._grace, self._stop_now.wait())
                    await asyncio.gather(draining, stopping)
            if not stream.cancelled():
                stream.result()
        finally:
            holdings.stop_all()
            stream.cancel()
            await asyncio.wait([stream])
            await holdings.slots.close()
            if listener is not None:
                await listener.close()
            if threads is not None:
                threads.close()

    async def _open_listener(
        self, hello: worker_service_pb2.WorkerHello, calls_max: int
    ) -> Listener | None:
        """Listens before the worker attaches, so that nobody is sent to a closed port."""
        if self._listen is None:
            return None
        listener = Listener(self._listen, self._registrations, calls_max, self._flags)
        self._endpoint = hello.endpoint = await listener.start()
        return listener

    async def _drain(
        self, stream: "asyncio.Task[None]", holdings: Holdings, attachment: Attachment
    ) -> None:
        _log.info("draining: %d attempts run", holdings.slots.busy)
        holdings.drain("stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                await _first(stream, holdings.empty.wait(), self._stop_now.wait())
        if not holdings.empty.is_set():
            _log.warning("giving up: %d attempts still run", holdings.slots.busy)
        attachment.leave()
        await asyncio.wait([stream], timeout=_GOODBYE_S)
        if not stream.done():
            stream.cancel()
            await asyncio.wait([stream])

    async def _announce(self, hello: worker_service_pb2.WorkerHello, served: list[Served]) -> None:
        """Makes the methods known, and learns their queues and routes. `served` is by route, as the
        hello is.
        """
        services = [find_service(name) for name in sorted(self._registry.services)]
        found = [each for each in services if each is not None]
        request = contract_service_pb2.AnnounceContractRequest(
            descriptor_set=descriptor_set(found),
            services=[each.full_name for each in found],
            for_worker=True,
        )
        stub = contract_service_pb2_grpc.ContractServiceStub(self._channel)
        answer = contract_service_pb2.AnnounceContractResponse()
        async for trial in retry.connection():
            with trial:
                answer = await stub.AnnounceContract(request, wait_for_ready=True)
        infos = {info.method: info for info in answer.methods}
        routes = []
        served.clear()
        for each in self._registry.methods.values():
            info = infos.get(each.path, contract_service_pb2.MethodInfo())
            each.queue = info.queue
            for route in info.served_routes or [each.path]:
                routes.append(route)
                served.append(each)
        hello.methods[:] = routes
        hello.contracts[:] = [answer.digest] if answer.digest else []


async def _first(*waits: Any) -> None:
    """Returns when one of them is done; cancels those that were made for this wait."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


def _default_threads() -> int:
    return min(32, (os.cpu_count() or 1) + 4)
