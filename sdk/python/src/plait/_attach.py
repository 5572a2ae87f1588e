"""A worker's stream: attempts come in, outcomes go out; attached again whenever it breaks
(docs/protocol.md §4)."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import grpc

from plait import errors
from plait._holdings import Holdings
from plait._streams import end_task, read
from plait._wire import RECONNECT_MAX_S, RECONNECT_MIN_S
from plait.v1 import worker_service_pb2, worker_service_pb2_grpc

_log = logging.getLogger("plait.worker")

_Call: TypeAlias = (
    "grpc.aio.StreamStreamCall[worker_service_pb2.AttachRequest, worker_service_pb2.AttachResponse]"
)

# What a broker answers to a worker that it will never take.
_FATAL: Final = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# Silence of so many heartbeat intervals means that the other side is gone.
_SILENT_INTERVALS: Final = 3


class Attachment:
    """Keeps a worker attached."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        hello: worker_service_pb2.WorkerHello,
        attached: asyncio.Event,
    ) -> None:
        """`hello` is without the leases held; `attached` is set while a stream is open."""
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self._hello = hello
        self._writing: asyncio.Future[None] | None = None
        self._leaving = False
        # Whether the stream of this moment, or the last one, was welcome.
        self._welcomed = False
        self.attached = attached

    def wake(self) -> None:
        """There is something to send."""
        writing = self._writing
        if writing is not None and not writing.done():
            writing.set_result(None)

    async def run(self, holdings: Holdings, prepare: Callable[[], Awaitable[None]]) -> None:
        """Attaches, and again whenever the stream ends; returns after `leave`.

        `prepare` is awaited before each stream. Raises the error of a broker that will not have the
        worker.
        """
        wait = RECONNECT_MIN_S
        while not self._leaving:
            self._welcomed = False
            try:
                await prepare()
                await self._connect(holdings)
            except grpc.aio.AioRpcError as error:
                if _is_fatal(error):
                    raise
                _log.info("the stream ended: %s %s", error.code().name, error.details())
            if self._welcomed:
                # However it ended: the broker was there a moment ago.
                wait = RECONNECT_MIN_S
            await asyncio.sleep(random.uniform(0, 0 if self._leaving else wait))
            wait = min(wait * 2, RECONNECT_MAX_S)

    def leave(self) -> None:
        """Ends the stream once everything is sent, and attaches no more."""
        self._leaving = True
        self.wake()

    async def _connect(self, holdings: Holdings) -> None:
        """One stream, from hello to its end."""
        call: _Call = self._stub.Attach(wait_for_ready=True)
        tasks: list[asyncio.Task[None]] = []
        try:
            await call.write(worker_service_pb2.AttachRequest(hello=self._full_hello(holdings)))
            first = await read(call)
            if first is None:
                return
            self._welcomed = True
            welcome = first.welcome
            holdings.restart(welcome)
            watch = _Watch(
                welcome.heartbeat_interval.seconds + welcome.heartbeat_interval.nanos / 1e9
            )
            tasks.append(asyncio.create_task(self._write(call, holdings), name="plait-writer"))
            tasks.append(
                asyncio.create_task(self._keep_alive(call, holdings, watch), name="plait-watch")
            )
            self.attached.set()
            while (response := await read(call)) is not None:
                watch.heard()
                _take(response, holdings)
        finally:
            self.attached.clear()
            call.cancel()
            for task in tasks:
                await end_task(task)

    def _full_hello(self, holdings: Holdings) -> worker_service_pb2.WorkerHello:
        hello = worker_service_pb2.WorkerHello()
        hello.CopyFrom(self._hello)
        for task, token in holdings.leases():
            hello.held.add(task=task, token=token)
        return hello

    async def _write(self, call: _Call, holdings: Holdings) -> None:
        try:
            while True:
                message = holdings.take()
                if message is not None:
                    await call.write(message)
                    continue
                if self._leaving:
                    await call.done_writing()
                    return
                self._writing = asyncio.get_running_loop().create_future()
                await self._writing
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader sees the stream's end and its status.
            return
        except Exception:
            # A fault of ours; the reader is to end, too.
            call.cancel()
            raise

    async def _keep_alive(self, call: _Call, holdings: Holdings, watch: "_Watch") -> None:
        while watch.interval > 0:
            await asyncio.sleep(watch.interval)
            if watch.is_silent():
                _log.warning("the broker is silent; connecting again")
                call.cancel()
                return
            holdings.heartbeat()
            self.wake()


class _Watch:
    """Notices that the broker is silent."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._heard_at = time.monotonic()
        self._suspected = False

    def heard(self) -> None:
        self._heard_at = time.monotonic()
        self._suspected = False

    def is_silent(self) -> bool:
        """To be asked once an interval. A first suspicion may be our own fault: a handler that held
        up the loop."""
        if time.monotonic() - self._heard_at < _SILENT_INTERVALS * self.interval:
            return False
        suspected, self._suspected = self._suspected, True
        return suspected


def _is_fatal(error: grpc.aio.AioRpcError) -> bool:
    # A broker that has forgotten the methods is told of them again before the next stream.
    return error.code() in _FATAL and errors.reason(error) != errors.Reason.METHOD_UNKNOWN


def _take(response: worker_service_pb2.AttachResponse, holdings: Holdings) -> None:
    kind = response.WhichOneof("message")
    if kind == "attempts":
        holdings.attempts(response.attempts)
    elif kind == "settled":
        _log_refused(response.settled)
        holdings.settled(response.settled)
    elif kind == "stop":
        holdings.stop((each.task, each.token) for each in response.stop.entries)
    elif kind == "flags":
        holdings.flags.change(response.flags)


def _log_refused(frame: worker_service_pb2.SettledFrame) -> None:
    for each in frame.refused:
        _log.info("the outcome of t%016x was refused: %s", each.task, each.status.message)
