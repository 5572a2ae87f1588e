"""A broker in memory, for tests of the SDK alone: it speaks the protocol, keeps nothing, and can
misbehave on purpose.

What a broker promises is tested against the real one; here a test decides what the other side says
and when.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2

from plait import errors
from plait.v1 import (
    contract_service_pb2,
    contract_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)


@dataclass
class PocketTask:
    """A task; `result` is a response and a failure."""

    path: str
    payload: bytes
    options: task_pb2.TaskOptions
    key: str
    ordering_key: str
    token: int = 0
    result: tuple[bytes, Any] | None = None


@dataclass(eq=False)
class PocketWorker:
    """A worker's stream."""

    hello: worker_service_pb2.WorkerHello
    out: "asyncio.Queue[Any]"
    held: set[tuple[int, int]] = field(default_factory=set)
    sequence: int = 0
    accepted: int = 0
    said: list[worker_service_pb2.AttachRequest] = field(default_factory=list)


class PocketBroker(
    task_service_pb2_grpc.TaskServiceServicer,
    contract_service_pb2_grpc.ContractServiceServicer,
    worker_service_pb2_grpc.WorkerServiceServicer,
):
    """Tasks go to any worker that is attached, up to twice its slots; one attempt each."""

    def __init__(self) -> None:
        self.policies: dict[str, contract_service_pb2.MethodInfo] = {}
        self.methods: dict[str, contract_service_pb2.MethodInfo] = {}
        self.announced: list[contract_service_pb2.AnnounceContractRequest] = []
        self.tasks: dict[int, PocketTask] = {}
        self.ready: deque[int] = deque()
        self.workers: list[PocketWorker] = []
        self.sessions: dict[bytes, dict[int, task_service_pb2.AcceptedFrame]] = {}
        self.hellos: list[worker_service_pb2.WorkerHello] = []
        self.frames: list[task_service_pb2.SequencedSubmit] = []
        self.awaits: list[task_service_pb2.AwaitFrame] = []
        self.outcomes: list[worker_service_pb2.OutcomeFrame] = []
        # What a test wants it to do.
        self.refuse_next: list[int | None] = []
        self.lose_next_acceptance = False
        self.settles = True
        self.speaks = True
        self.payload_bytes_max = 1 << 20
        self.timeout_ms = 60_000
        self.announcement_errors: list[grpc.aio.AioRpcError] = []
        self._submitters: list[asyncio.Queue[Any]] = []
        self._waiters: dict[int, list[asyncio.Queue[Any]]] = {}
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listens; on the same port again after `stop`."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self, self._server)
        contract_service_pb2_grpc.add_ContractServiceServicer_to_server(self, self._server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(0)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Returns once this is so."""
        while not happened():
            self._changed.clear()
            await self._changed.wait()

    def cut_submitters(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Breaks the streams of submitters."""
        for out in self._submitters:
            out.put_nowait(code)

    def cut_workers(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Breaks the streams of workers. Their leases stay theirs, as after a restart."""
        for worker in self.workers:
            worker.out.put_nowait(code)

    def take_lease(self, task: int) -> None:
        """Gives a task a new token, without an attempt: whoever holds it has lost it."""
        self.tasks[task].token += 1

    def stop_attempt(self, task: int) -> None:
        """Tells the worker to stop an attempt."""
        for worker in self.workers:
            for number, token in worker.held:
                if number == task:
                    stop = worker_service_pb2.StopFrame()
                    stop.entries.add(
                        task=number, token=token, reason=worker_service_pb2.STOP_REASON_CANCELLED
                    )
                    worker.out.put_nowait(worker_service_pb2.AttachResponse(stop=stop))

    # Contracts.

    async def AnnounceContract(self, request: Any, context: Any) -> Any:
        self.announced.append(request)
        self._note()
        if self.announcement_errors:
            error = self.announcement_errors.pop(0)
            await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
        files = descriptor_pb2.FileDescriptorSet.FromString(request.descriptor_set)
        paths = [
            f"/{file.package}.{service.name}/{method.name}"
            for file in files.file
            for service in file.service
            if f"{file.package}.{service.name}" in request.services
            for method in service.method
        ]
        for path in paths:
            default = contract_service_pb2.MethodInfo(method=path, queue="queue")
            self.methods[path] = self.policies.get(path, default)
        return contract_service_pb2.AnnounceContractResponse(
            methods=[self.methods[path] for path in paths]
        )

    async def ResolveMethods(self, request: Any, context: Any) -> Any:
        found = [self.methods[path] for path in request.methods if path in self.methods]
        return contract_service_pb2.ResolveMethodsResponse(methods=found)

    # Submitters.

    async def SubmitStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        out: asyncio.Queue[Any] = asyncio.Queue()
        self._submitters.append(out)
        reader = asyncio.create_task(self._read_submitter(request_iterator, out))
        try:
            async for message in _until_cut(out, context):
                yield message
        finally:
            reader.cancel()
            self._submitters.remove(out)

    async def _read_submitter(self, requests: Any, out: "asyncio.Queue[Any]") -> None:
        session: dict[int, task_service_pb2.AcceptedFrame] = {}
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "hello":
                session = self.sessions.setdefault(request.hello.session, {})
                welcome = task_service_pb2.SessionWelcome(
                    last_sequence=max(session, default=0),
                    payload_bytes_max=self.payload_bytes_max,
                    frame_tasks_max=256,
                )
                out.put_nowait(task_service_pb2.SubmitStreamResponse(welcome=welcome))
            elif kind == "submit":
                self._submitted(request.submit, session, out)
            else:
                self._awaited(getattr(request, "await"), out)
            self._note()
        out.put_nowait(None)

    def _submitted(
        self,
        submit: task_service_pb2.SequencedSubmit,
        session: dict[int, task_service_pb2.AcceptedFrame],
        out: "asyncio.Queue[Any]",
    ) -> None:
        self.frames.append(submit)
        answer = task_service_pb2.SequencedAccepted(sequence=submit.sequence)
        if submit.sequence not in session:
            refusal = None
            if submit.sequence > max(session, default=0) + 1:
                # The one before was refused, so this one is, too.
                refusal = 1
            elif self.refuse_next:
                refusal = self.refuse_next.pop(0)
            if refusal is not None:
                answer.retry_after.FromMilliseconds(refusal)
                out.put_nowait(task_service_pb2.SubmitStreamResponse(accepted=answer))
                return
            session[submit.sequence] = self._accept(submit.tasks)
        answer.accepted.CopyFrom(session[submit.sequence])
        if self.lose_next_acceptance:
            self.lose_next_acceptance = False
            out.put_nowait(grpc.StatusCode.UNAVAILABLE)
            return
        if getattr(submit, "await"):
            for number in answer.accepted.tasks:
                if number:
                    self._waiters.setdefault(number, []).append(out)
        out.put_nowait(task_service_pb2.SubmitStreamResponse(accepted=answer))
        self._send_results({out: [each for each in answer.accepted.tasks if each]})
        self._dispatch()

    def _accept(self, frame: task_service_pb2.SubmitFrame) -> task_service_pb2.AcceptedFrame:
        accepted = task_service_pb2.AcceptedFrame()
        by_index = {each.index: each.options for each in frame.options}
        for index, payload in enumerate(frame.payloads):
            path = frame.methods[frame.method_index[index] if frame.method_index else 0]
            if path not in self.methods:
                accepted.tasks.append(0)
                unknown = errors.new_status(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    errors.Reason.METHOD_UNKNOWN,
                    f"no contract declares {path}",
                )
                accepted.refusals.add(index=index, status=unknown)
                continue
            number = len(self.tasks) + 1
            self.tasks[number] = PocketTask(
                path=path,
                payload=payload,
                options=by_index.get(index, frame.common),
                key=frame.idempotency_keys[index] if frame.idempotency_keys else "",
                ordering_key=frame.ordering_keys[index] if frame.ordering_keys else "",
            )
            self.ready.append(number)
            accepted.tasks.append(number)
        return accepted

    def _awaited(self, frame: task_service_pb2.AwaitFrame, out: "asyncio.Queue[Any]") -> None:
        self.awaits.append(frame)
        for number in frame.tasks:
            self._waiters.setdefault(number, []).append(out)
        for number in frame.forget:
            if out in self._waiters.get(number, []):
                self._waiters[number].remove(out)
        self._send_results({out: list(frame.tasks)})

    def _send_results(self, wanted: "dict[asyncio.Queue[Any], list[int]]") -> None:
        for out, numbers in wanted.items():
            results = task_service_pb2.ResultFrame()
            for number in numbers:
                task = self.tasks.get(number)
                if task is not None and task.result is None:
                    continue
                if out in self._waiters.get(number, []):
                    self._waiters[number].remove(out)
                payload, failure = (task.result if task else None) or (b"", _not_found(number))
                results.tasks.append(number)
                results.payloads.append(payload)
                if failure is not None:
                    made = results.failures.add()
                    made.CopyFrom(failure)
                    made.index = len(results.tasks) - 1
                    made.state = task_pb2.TASK_STATE_FAILED
            if results.tasks:
                out.put_nowait(task_service_pb2.SubmitStreamResponse(results=results))

    # Workers.

    async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        requests = aiter(request_iterator)
        hello = (await anext(requests)).hello
        self.hellos.append(hello)
        worker = PocketWorker(hello, asyncio.Queue())
        reader = asyncio.create_task(self._read_worker(requests, worker))
        try:
            yield self._welcome(worker)
            self._dispatch()
            async for message in _until_cut(worker.out, context):
                yield message
        finally:
            reader.cancel()
            if worker in self.workers:
                self.workers.remove(worker)
            self._note()

    async def _read_worker(self, requests: Any, worker: PocketWorker) -> None:
        async for request in requests:
            worker.accepted = max(worker.accepted, request.accepted_sequence)
            kind = request.WhichOneof("message")
            if kind == "outcomes":
                self._ended(request.outcomes, worker)
            elif kind == "hand_back":
                for lease in zip(request.hand_back.tasks, request.hand_back.tokens, strict=True):
                    worker.held.discard(lease)
                    self.ready.appendleft(lease[0])
            worker.said.append(request)
            if self.speaks:
                alive = worker_service_pb2.BrokerHeartbeat()
                worker.out.put_nowait(worker_service_pb2.AttachResponse(heartbeat=alive))
            self._note()
        worker.out.put_nowait(None)

    def _welcome(self, worker: PocketWorker) -> Any:
        held = {(each.task, each.token) for each in worker.hello.held}
        lost = {each for each in held if self._token(each[0]) != each[1]}
        worker.held = held - lost
        welcome = worker_service_pb2.WorkerWelcome(payload_bytes_max=self.payload_bytes_max)
        welcome.heartbeat_interval.FromMilliseconds(100)
        for task, token in lost:
            welcome.lost.add(task=task, token=token)
        self.workers.append(worker)
        self._note()
        return worker_service_pb2.AttachResponse(welcome=welcome)

    def _token(self, number: int) -> int:
        return self.tasks[number].token if number in self.tasks else 0

    def _ended(self, frame: worker_service_pb2.OutcomeFrame, worker: PocketWorker) -> None:
        self.outcomes.append(frame)
        failures = {each.index: each for each in frame.failures}
        wanted: dict[asyncio.Queue[Any], list[int]] = {}
        for index, number in enumerate(frame.tasks):
            worker.held.discard((number, frame.tokens[index]))
            task = self.tasks[number]
            if task.result is None:
                task.result = (frame.payloads[index], failures.get(index))
            for out in self._waiters.get(number, []):
                wanted.setdefault(out, []).append(number)
        if self.settles:
            settled = worker_service_pb2.SettledFrame(sequence=frame.sequence)
            worker.out.put_nowait(worker_service_pb2.AttachResponse(settled=settled))
        self._send_results(wanted)
        self._dispatch()

    def _dispatch(self) -> None:
        for worker in self.workers:
            frame = worker_service_pb2.AttemptFrame()
            window = worker.hello.slots * 2
            draining = any(each.HasField("drain") for each in worker.said)
            while self.ready and not draining and len(worker.held) < window:
                if len(frame.tasks) >= 256:
                    break
                if self.tasks[self.ready[0]].path not in worker.hello.methods:
                    break
                self._put_attempt(frame, self.ready.popleft(), worker)
            if frame.tasks:
                worker.sequence += 1
                frame.sequence = worker.sequence
                worker.out.put_nowait(worker_service_pb2.AttachResponse(attempts=frame))

    def _put_attempt(
        self, frame: worker_service_pb2.AttemptFrame, number: int, worker: PocketWorker
    ) -> None:
        task = self.tasks[number]
        task.token += 1
        index = len(frame.tasks)
        frame.tasks.append(number)
        frame.tokens.append(task.token)
        frame.method_index.append(list(worker.hello.methods).index(task.path))
        frame.payloads.append(task.payload)
        frame.timeout_ms.append(self.timeout_ms)
        if task.options.metadata or task.key:
            extra = frame.extras.add(index=index, idempotency_key=task.key)
            extra.metadata.extend(task.options.metadata)
        worker.held.add((number, task.token))

    def _note(self) -> None:
        self._changed.set()


async def _until_cut(out: "asyncio.Queue[Any]", context: Any) -> AsyncIterator[Any]:
    while (message := await out.get()) is not None:
        if isinstance(message, grpc.StatusCode):
            await context.abort(message, "cut by the test")
        yield message


def _not_found(number: int) -> task_service_pb2.Failure:
    status = errors.new_status(
        grpc.StatusCode.NOT_FOUND, errors.Reason.TASK_NOT_FOUND, f"there is no task {number}"
    )
    return task_service_pb2.Failure(
        code=status.code, message=status.message, details=status.SerializeToString()
    )
