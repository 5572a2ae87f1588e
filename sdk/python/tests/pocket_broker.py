"""A broker in memory, for tests of the SDK alone: it speaks the protocol, keeps nothing, and can misbehave on purpose.

What a broker promises is tested against the real one; here a test decides what the other side says and when.
"""

import asyncio
from collections import deque
from typing import Any

import grpc

from plait.v1 import (
    contract_service_pb2,
    contract_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)


class PocketBroker(
    task_service_pb2_grpc.TaskServiceServicer,
    contract_service_pb2_grpc.ContractServiceServicer,
    worker_service_pb2_grpc.WorkerServiceServicer,
):
    """Tasks go to any worker that is attached, by its slots; one attempt each."""

    def __init__(self) -> None:
        self.methods: dict[str, contract_service_pb2.MethodInfo] = {}
        self.announced: list[contract_service_pb2.AnnounceContractRequest] = []
        self.tasks: dict[int, dict[str, Any]] = {}
        self.ready: deque[int] = deque()
        self.workers: list[_Worker] = []
        self.sessions: dict[bytes, dict[int, task_service_pb2.AcceptedFrame]] = {}
        self.hellos: list[worker_service_pb2.WorkerHello] = []
        self.submitters: list[asyncio.Queue[Any]] = []
        self.waiters: dict[int, list[asyncio.Queue[Any]]] = {}
        self.frames: list[task_service_pb2.SequencedSubmit] = []
        self.outcome_frames: list[worker_service_pb2.AttachRequest] = []
        self.refuse_next: list[Any] = []
        self.server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, port: int = 0) -> str:
        self.server = grpc.aio.server()
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self, self.server)
        contract_service_pb2_grpc.add_ContractServiceServicer_to_server(self, self.server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.stop(0)

    # Contracts.

    async def AnnounceContract(self, request, context):
        self.announced.append(request)
        from google.protobuf import descriptor_pb2

        files = descriptor_pb2.FileDescriptorSet.FromString(request.descriptor_set)
        methods = []
        for file in files.file:
            for service in file.service:
                full = f"{file.package}.{service.name}"
                if full in request.services:
                    methods += [f"/{full}/{each.name}" for each in service.method]
        for path in methods:
            self.methods.setdefault(
                path, contract_service_pb2.MethodInfo(method=path, queue="queue")
            )
        return contract_service_pb2.AnnounceContractResponse(
            methods=[self.methods[path] for path in methods]
        )

    async def ResolveMethods(self, request, context):
        found = [self.methods[path] for path in request.methods if path in self.methods]
        return contract_service_pb2.ResolveMethodsResponse(methods=found)

    # Submitters.

    async def SubmitStream(self, request_iterator, context):
        out: asyncio.Queue[Any] = asyncio.Queue()
        self.submitters.append(out)
        reader = asyncio.create_task(self._read_submitter(request_iterator, out))
        try:
            while (message := await out.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            reader.cancel()
            self.submitters.remove(out)

    async def _read_submitter(self, requests, out: asyncio.Queue[Any]) -> None:
        session: dict[int, task_service_pb2.AcceptedFrame] = {}
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "hello":
                session = self.sessions.setdefault(request.hello.session, {})
                welcome = task_service_pb2.SessionWelcome(
                    last_sequence=max(session, default=0),
                    payload_bytes_max=1 << 20,
                    frame_tasks_max=256,
                )
                out.put_nowait(task_service_pb2.SubmitStreamResponse(welcome=welcome))
            elif kind == "submit":
                self._submitted(request.submit, session, out)
            else:
                self._awaited(getattr(request, "await"), out)
        out.put_nowait(None)

    def _submitted(self, submit, session, out) -> None:
        self.frames.append(submit)
        answer = task_service_pb2.SequencedAccepted(sequence=submit.sequence)
        if submit.sequence in session:
            answer.accepted.CopyFrom(session[submit.sequence])
        else:
            if self.refuse_next:
                refusal = self.refuse_next.pop(0)
                if refusal is not None:
                    answer.retry_after.FromMilliseconds(refusal)
                    out.put_nowait(task_service_pb2.SubmitStreamResponse(accepted=answer))
                    return
            self._accept(submit, answer.accepted)
            session[submit.sequence] = answer.accepted
        if getattr(submit, "await"):
            for number in answer.accepted.tasks:
                if number:
                    self.waiters.setdefault(number, []).append(out)
        out.put_nowait(task_service_pb2.SubmitStreamResponse(accepted=answer))
        self._dispatch()

    def _accept(self, submit, accepted) -> None:
        frame = submit.tasks
        for index, payload in enumerate(frame.payloads):
            path = frame.methods[frame.method_index[index] if frame.method_index else 0]
            number = len(self.tasks) + 1
            options = frame.common
            for each in frame.options:
                if each.index == index:
                    options = each.options
            self.tasks[number] = {
                "path": path,
                "payload": payload,
                "options": options,
                "key": frame.idempotency_keys[index] if frame.idempotency_keys else "",
                "token": 0,
                "result": None,
            }
            self.ready.append(number)
            accepted.tasks.append(number)

    def _awaited(self, frame, out) -> None:
        done = [number for number in frame.tasks if self.tasks[number]["result"] is not None]
        for number in frame.tasks:
            if number not in done:
                self.waiters.setdefault(number, []).append(out)
        for number in frame.forget:
            waiting = self.waiters.get(number, [])
            if out in waiting:
                waiting.remove(out)
        self._send_results({out: done})

    def _send_results(self, by_out) -> None:
        for out, numbers in by_out.items():
            if not numbers:
                continue
            results = task_service_pb2.ResultFrame(tasks=numbers)
            for index, number in enumerate(numbers):
                payload, failure = self.tasks[number]["result"]
                results.payloads.append(payload)
                if failure is not None:
                    made = results.failures.add()
                    made.CopyFrom(failure)
                    made.index = index
                    made.state = task_pb2.TASK_STATE_FAILED
            out.put_nowait(task_service_pb2.SubmitStreamResponse(results=results))

    # Workers.

    async def Attach(self, request_iterator, context):
        worker = _Worker()
        reader = asyncio.create_task(self._read_worker(request_iterator, worker))
        try:
            while (message := await worker.out.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            reader.cancel()
            if worker in self.workers:
                self.workers.remove(worker)

    async def _read_worker(self, requests, worker: "_Worker") -> None:
        async for request in requests:
            worker.accepted = max(worker.accepted, request.accepted_sequence)
            kind = request.WhichOneof("message")
            if kind == "hello":
                self._hello(request.hello, worker)
            elif kind == "outcomes":
                self.outcome_frames.append(request)
                self._outcomes(request.outcomes, worker)
            elif kind == "hand_back":
                for number in request.hand_back.tasks:
                    worker.held.discard(number)
                    self.ready.appendleft(number)
            elif kind is not None:
                worker.said.append(request)
            worker.changed.set()
        worker.out.put_nowait(None)

    def _hello(self, hello, worker: "_Worker") -> None:
        self.hellos.append(hello)
        worker.methods = list(hello.methods)
        worker.window = hello.slots * 2
        held = {(each.task, each.token) for each in hello.held}
        lost = {
            lease
            for lease in held
            if lease[0] not in self.tasks or self.tasks[lease[0]]["token"] != lease[1]
        }
        worker.held = {task for task, _ in held - lost}
        welcome = worker_service_pb2.WorkerWelcome(payload_bytes_max=1 << 20)
        welcome.heartbeat_interval.FromMilliseconds(200)
        for task, token in lost:
            welcome.lost.add(task=task, token=token)
        worker.out.put_nowait(worker_service_pb2.AttachResponse(welcome=welcome))
        self.workers.append(worker)
        self._dispatch()

    def _outcomes(self, frame, worker: "_Worker") -> None:
        failures = {each.index: each for each in frame.failures}
        by_out: dict[Any, list[int]] = {}
        for index, number in enumerate(frame.tasks):
            worker.held.discard(number)
            task = self.tasks[number]
            if task["result"] is None:
                task["result"] = (frame.payloads[index], failures.get(index))
            for out in self.waiters.pop(number, []):
                by_out.setdefault(out, []).append(number)
        settled = worker_service_pb2.SettledFrame(sequence=frame.sequence)
        worker.out.put_nowait(worker_service_pb2.AttachResponse(settled=settled))
        self._send_results(by_out)
        self._dispatch()

    def _dispatch(self) -> None:
        for worker in self.workers:
            frame = worker_service_pb2.AttemptFrame()
            while self.ready and len(worker.held) < worker.window and len(frame.tasks) < 256:
                if self.tasks[self.ready[0]]["path"] not in worker.methods:
                    break
                self._put_attempt(frame, self.ready.popleft(), worker)
            if frame.tasks:
                worker.sequence += 1
                frame.sequence = worker.sequence
                worker.out.put_nowait(worker_service_pb2.AttachResponse(attempts=frame))

    def _put_attempt(self, frame, number: int, worker: "_Worker") -> None:
        task = self.tasks[number]
        task["token"] += 1
        index = len(frame.tasks)
        frame.tasks.append(number)
        frame.tokens.append(task["token"])
        frame.method_index.append(worker.methods.index(task["path"]))
        frame.payloads.append(task["payload"])
        frame.timeout_ms.append(task.get("timeout_ms", 60_000))
        options = task["options"]
        if options.metadata or task["key"]:
            extra = frame.extras.add(index=index, idempotency_key=task["key"])
            extra.metadata.extend(options.metadata)
        worker.held.add(number)


class _Worker:
    def __init__(self) -> None:
        self.out: asyncio.Queue[Any] = asyncio.Queue()
        self.methods: list[str] = []
        self.window = 1
        self.held: set[int] = set()
        self.sequence = 0
        self.accepted = 0
        self.said: list[Any] = []
        self.changed = asyncio.Event()
