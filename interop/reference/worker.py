"""One Attach stream for the process, and the handlers that it feeds (protocol §4)."""

import asyncio
import secrets
from collections.abc import Iterator, Mapping

import grpc
from google.rpc import code_pb2

from interop.reference import methods, statuses, streams
from interop.reference.attempt import Attempt, Lease
from interop.reference.echo import Handler
from interop.reference.holdings import Holdings
from plait.v1 import worker_service_pb2 as workers_api
from plait.v1 import worker_service_pb2_grpc as workers_rpc

GRACE_S = 30.0
"""How long a drain waits for handlers."""
SILENCES = 3
"""Heartbeat intervals without a word after which the broker counts as gone."""
Stream = grpc.aio.StreamStreamCall[workers_api.AttachRequest, workers_api.AttachResponse]


class Worker:
    """Carries out attempts with the handlers it is given, so many at once."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        known: methods.Methods,
        handlers: Mapping[str, Handler],
        slots: int,
    ) -> None:
        self.attached = asyncio.Event()
        """Set once the broker has welcomed it."""
        self._stub = workers_rpc.WorkerServiceStub(channel)
        self._methods = known
        self._handlers = handlers
        self._routes: list[str] = []
        self._contract = ""
        self._slots = slots
        self._id = f"reference-{secrets.token_hex(8)}"
        self._holdings = Holdings()
        self._running: dict[Lease, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._leaving = False
        self._left = asyncio.Event()
        self._failures = 0

    async def run(self) -> None:
        """Keeps a stream to the broker until it drained. Raises StatusError when the broker will
        not have this worker."""
        await self._announce()
        while not self._leaving:
            try:
                await self._connection()
            except TimeoutError:
                pass  # the broker was silent
            except grpc.aio.AioRpcError as error:
                await self._refused(statuses.of_call(error))
            if not self._leaving:
                await methods.pause(self._failures)
                self._failures += 1
        self._left.set()

    async def drain(self) -> None:
        """Begins nothing more, and waits until what runs has ended and is settled, for a while."""
        self._holdings.draining = True
        self._arrange()
        try:
            async with asyncio.timeout(GRACE_S):
                await self._empty.wait()
        except TimeoutError:
            pass  # the leases of what still runs end with the stream
        self._leaving = True
        self._changed.set()
        await self._left.wait()

    async def _announce(self) -> None:
        """Makes its methods known, and learns the routes of those that it serves."""
        answer = await self._methods.announce()
        self._contract = answer.digest
        served = [each for each in answer.methods if each.method in self._handlers]
        self._routes = [
            route for each in served for route in (*each.served_routes,) or (each.method,)
        ]

    async def _refused(self, ended: statuses.StatusError) -> None:
        """A stream ended. Raises StatusError when another one would end in the same way."""
        if ended.reason == "METHOD_UNKNOWN":
            await self._announce()
        elif ended.status.code in (code_pb2.INVALID_ARGUMENT, code_pb2.UNIMPLEMENTED):
            raise ended

    async def _connection(self) -> None:
        """One stream, until it ends. Raises AioRpcError unless it ended well, TimeoutError when the
        broker is silent."""
        call: Stream = self._stub.Attach()
        try:
            await streams.write(call, workers_api.AttachRequest(hello=self._hello()))
            first = await call.read()
            if not isinstance(first, workers_api.AttachResponse):
                await streams.ended(call)
                return
            self._welcomed(first.welcome)
            interval_s = first.welcome.heartbeat_interval.ToTimedelta().total_seconds()
            writing = asyncio.create_task(self._write(call, interval_s / 2))
            reading = asyncio.create_task(self._read(call, interval_s * SILENCES))
            try:
                await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    await writing
                # All is said, or the stream has ended: the broker has the last word.
                await reading
            finally:
                writing.cancel()
                reading.cancel()
        finally:
            call.cancel()

    def _hello(self) -> workers_api.WorkerHello:
        return workers_api.WorkerHello(
            worker=self._id,
            name="echo-reference",
            client="plait-reference/0.1.0",
            methods=self._routes,
            contracts=[self._contract],
            slots=self._slots,
            held=self._holdings.held(),
        )

    def _welcomed(self, welcome: workers_api.WorkerWelcome) -> None:
        self._failures = 0
        for lost in self._holdings.attached(welcome.lost):
            self._stop(lost.lease)
        self.attached.set()
        self._arrange()

    async def _write(self, call: Stream, interval_s: float) -> None:
        while True:
            self._changed.clear()
            while (message := self._holdings.next()) is not None:
                if not await streams.write(call, message):
                    return
            if self._holdings.draining and self._holdings.empty:
                self._empty.set()
            if self._leaving:
                await call.done_writing()
                return
            try:
                async with asyncio.timeout(interval_s):
                    await self._changed.wait()
            except TimeoutError:
                beat = workers_api.AttachRequest(heartbeat=self._heartbeat())
                if not await streams.write(call, beat):
                    return

    def _heartbeat(self) -> workers_api.WorkerHeartbeat:
        waiting = len(self._holdings.attempts) - len(self._running)
        return workers_api.WorkerHeartbeat(running=len(self._running), waiting=waiting)

    async def _read(self, call: Stream, silence_s: float) -> None:
        while True:
            async with asyncio.timeout(silence_s):
                said = await call.read()
            if not isinstance(said, workers_api.AttachResponse):
                await streams.ended(call)
                return
            match said.WhichOneof("message"):
                case "attempts":
                    self._holdings.received(said.attempts.sequence, self._given(said.attempts))
                case "settled":
                    self._holdings.settled(said.settled.sequence)
                case "stop":
                    for each in said.stop.entries:
                        self._stop((each.task, each.token))
                case _:
                    pass  # a heartbeat; the broker's drain, after which the stream ends
            self._arrange()

    def _given(self, frame: workers_api.AttemptFrame) -> Iterator[Attempt]:
        now = asyncio.get_running_loop().time()
        extras = {each.index: each for each in frame.extras}
        for index, lease in enumerate(zip(frame.tasks, frame.tokens, strict=True)):
            yield Attempt(
                *lease,
                method=methods.of_route(
                    self._routes[frame.method_index[index] if frame.method_index else 0]
                ),
                request=frame.payloads[index],
                deadline=now + frame.timeout_ms[index] / 1000,
                extra=extras.get(index, workers_api.AttemptExtra()),
                changed=lambda _: self._arrange(),
            )

    def _arrange(self) -> None:
        """Starts what has a slot, hands back what will have none, and has the rest told."""
        holdings = self._holdings
        if holdings.draining:
            self._let_go()
        else:
            free = self._slots - sum(
                not holdings.attempts[lease].children
                for lease in self._running
                if lease in holdings.attempts
            )
            waiting = [
                each for lease, each in holdings.attempts.items() if lease not in self._running
            ]
            for attempt in waiting[: max(0, free)]:
                self._running[attempt.lease] = asyncio.create_task(self._attempt(attempt))
        self._changed.set()

    def _let_go(self) -> None:
        """After a drain nothing is begun, and a flow that waits for children waits elsewhere."""
        for lease, attempt in list(self._holdings.attempts.items()):
            if lease not in self._running:
                self._holdings.hand_back(attempt)
            elif attempt.children:
                self._holdings.suspend(attempt)
                self._running[lease].cancel()

    def _stop(self, lease: Lease) -> None:
        """Its outcome is no longer wanted."""
        self._holdings.attempts.pop(lease, None)
        if (running := self._running.get(lease)) is not None:
            running.cancel()

    async def _attempt(self, attempt: Attempt) -> None:
        try:
            self._holdings.ended(attempt, await self._outcome(attempt))
        finally:
            del self._running[attempt.lease]
            self._arrange()

    async def _outcome(self, attempt: Attempt) -> bytes | statuses.StatusError:
        limit = asyncio.timeout_at(attempt.deadline)
        try:
            async with limit:
                response = await self._handlers[attempt.method](attempt)
            return response.SerializeToString()
        except statuses.StatusError as error:
            return error
        except TimeoutError:
            if limit.expired():
                return statuses.error(code_pb2.DEADLINE_EXCEEDED, "the attempt's time is over")
            return statuses.error(code_pb2.UNKNOWN, "TimeoutError")
        except Exception as error:
            return statuses.error(code_pb2.UNKNOWN, f"{type(error).__name__}: {error}")
