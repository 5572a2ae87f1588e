"""Carries out a case: what the client is asked, what happens to the mesh, what is looked at."""

import asyncio
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import ParseError

from interop.runner import judge, messages
from interop.runner.cases import Case, fill
from interop.runner.processes import Client, Mesh
from plait.conformance.v1 import client_driver_pb2 as api
from plait.v1 import contract_service_pb2 as contracts_api
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as tasks_api

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CASE_S = 60.0
"""No case takes longer; what hangs is a failure."""
LOOK_S = 0.02
WAITING = ("SCHEDULED", "READY", "BACKOFF", "PARKED")
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
STEP_KINDS = (
    "call", "submit", "call_many", "submit_many", "result", "state", "watch", "cancel", "abandon",
    "await", "until", "task", "children", "pause", "resume", "worker", "broker", "client",
)  # fmt: skip
STEP_FIELDS = {*STEP_KINDS, "as", "request", "raw", "requests", "options", "expect", "count"}


class Failed(Exception):
    """What is not as the case expects, in words."""


@dataclass
class Asked:
    """Something that the client was asked."""

    id: int
    answer: "asyncio.Future[api.ClientResponse]"
    method: str
    request: bytes
    began: float
    took: float = 0.0
    expect: dict[str, Any] = field(default_factory=dict)


class Run:
    """One case with one client and one worker."""

    def __init__(self, case: Case, client: Client, mesh: Mesh, name: str) -> None:
        """`name` is in no other run over the same broker: for keys and accounts."""
        self._case = case
        self._client = client
        self._mesh = mesh
        self._values = {"case": name}
        self._asked: dict[str, Asked] = {}
        self._paused: set[str] = set()

    async def run(self) -> str | None:
        """What is not as expected; None: all is."""
        failure = await self._steps()
        if self._case.alone:
            # Whatever it came to, the next one finds all as it should be.
            self._client.send(signal.SIGCONT)
            await self._mesh.restore()
            for name in sorted(self._paused):
                await self._queue("resume", name)
        return failure

    async def _steps(self) -> str | None:
        try:
            async with asyncio.timeout(CASE_S):
                for number, step in enumerate(self._case.steps, 1):
                    kind = self._kind(step)
                    try:
                        await self._do(kind, fill(step, self._values), number)
                    except Failed as failed:
                        return f"step {number}, {kind}: {failed}"
        except TimeoutError:
            return f"not done in {CASE_S:.0f} s"
        except (grpc.aio.AioRpcError, ParseError, RuntimeError, AssertionError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _kind(self, step: dict[str, Any]) -> str:
        kinds = [kind for kind in STEP_KINDS if kind in step]
        if len(kinds) != 1 or step.keys() - STEP_FIELDS:
            raise RuntimeError(f"{self._case.id}: not a step: {step}")
        return kinds[0]

    async def _do(self, kind: str, step: dict[str, Any], number: int) -> None:
        match kind:
            case "until":
                await self._until(step["until"])
            case "task":
                await self._task(step)
            case "children":
                await self._children(step)
            case "pause" | "resume":
                await self._queue(kind, step[kind])
            case "worker" | "broker" | "client":
                await self._disturb(kind, step[kind])
            case "await":
                asked = self._known(step["await"])
                asked.expect = step.get("expect", {})
                await self._judge(asked)
            case _:
                await self._ask(kind, step, number)

    async def _ask(self, kind: str, step: dict[str, Any], number: int) -> None:
        request = api.ClientRequest()
        method, payload = "", b""
        if kind in ("call", "submit"):
            method, payload = step[kind], self._payload(step)
            said = api.Submission(method=method, request=payload)
            if "options" in step:
                said.options.CopyFrom(messages.options(step["options"]))
            getattr(request, kind).CopyFrom(said)
        elif kind in ("call_many", "submit_many"):
            method = step[kind]
            getattr(request, kind).CopyFrom(self._bulk(method, step))
        else:
            before = self._known(step[kind])
            method, payload = before.method, before.request
            getattr(request, kind).id = before.id
        began = time.monotonic()
        asked = Asked(*await self._client.ask(request), method, payload, began)
        asked.answer.add_done_callback(lambda _: setattr(asked, "took", time.monotonic()))
        self._asked[step.get("as", str(number))] = asked
        if "expect" in step or "as" not in step or kind == "submit":
            asked.expect = step.get("expect", {})
            await self._judge(asked)

    def _payload(self, step: dict[str, Any]) -> bytes:
        if "raw" in step:
            return bytes.fromhex(step["raw"].replace(" ", ""))
        method = step.get("call") or step["submit"]
        return messages.request(method, step.get("request", {})).SerializeToString()

    def _bulk(self, method: str, step: dict[str, Any]) -> api.Bulk:
        count = int(step.get("count", 1))
        bulk = api.Bulk(method=method)
        for index in range(count):
            fields = fill(step["request"], {"i": index})
            bulk.requests.append(messages.request(method, fields).SerializeToString())
        return bulk

    async def _judge(self, asked: Asked) -> None:
        answer = await asked.answer
        wrong = list(judge.differences(asked.expect, answer, asked.method, asked.request))
        took = asked.took - asked.began
        wrong += (
            judge.within(asked.expect.get("took"), took, "took") if "took" in asked.expect else []
        )
        for name, same in (("task_of", True), ("other_than", False)):
            if name in asked.expect:
                other = self._known(asked.expect[name]).answer.result().tasks[0]
                if (answer.tasks[0] == other) is not same:
                    wrong.append(
                        f"its task is {'not ' if same else ''}that of {asked.expect[name]}"
                    )
        if wrong:
            raise Failed("; ".join(wrong))

    def _known(self, name: str) -> Asked:
        try:
            return self._asked[str(name)]
        except KeyError:
            raise RuntimeError(f"{self._case.id}: what is {name!r}?") from None

    async def _read(self, name: str) -> task_pb2.Task:
        answer = await self._known(name).answer
        request = tasks_api.GetTaskRequest(id=answer.tasks[0], view=task_pb2.TASK_VIEW_FULL)
        return (await self._mesh.tasks().GetTask(request)).task

    async def _until(self, wanted: dict[str, Any]) -> None:
        """Looks at a task, a queue or a contract until it is as wanted."""
        wanted = dict(wanted)
        looks = {"task": self._found, "queue": self._counts, "contract": self._contract}
        kind = next(kind for kind in looks if kind in wanted)
        name, look = wanted.pop(kind), looks[kind]
        while wrong := list(judge.within(wanted, found := await look(name), name)):
            if found.get("state") in FINAL:
                raise Failed("; ".join(wrong))
            await asyncio.sleep(LOOK_S)

    async def _found(self, name: str) -> dict[str, Any]:
        return _shown(await self._read(name))

    async def _task(self, step: dict[str, Any]) -> None:
        found = await self._found(step["task"])
        if wrong := list(judge.within(step["expect"], found, "task")):
            raise Failed("; ".join(wrong))

    async def _children(self, step: dict[str, Any]) -> None:
        """Looks at every child of a flow."""
        flow = await self._read(step["children"])
        request = tasks_api.ListTasksRequest(filter=f"parent = {flow.id}")
        children = (await self._mesh.tasks().ListTasks(request)).tasks
        if not children:
            raise Failed("there are none")
        wrong = [
            line
            for child in children
            for line in judge.within(step["expect"], _shown(child), f"child {child.id}")
        ]
        if wrong:
            raise Failed("; ".join(wrong))

    async def _counts(self, name: str) -> dict[str, Any]:
        """What is in a queue: tasks that wait to be started, and tasks that have not ended."""
        request = tasks_api.GetQueueRequest(name=name)
        queue = (await self._mesh.tasks().GetQueue(request)).queue
        counts = {judge.state_name(each.state): each.count for each in queue.counts}
        return {
            "waiting": sum(count for state, count in counts.items() if state in WAITING),
            "unfinished": sum(count for state, count in counts.items() if state not in FINAL),
        }

    async def _contract(self, service: str) -> dict[str, Any]:
        """How many methods of a service the broker knows."""
        answer = await self._mesh.contracts().ListContracts(contracts_api.ListContractsRequest())
        known = (each for each in answer.contracts if each.service == service)
        return {"methods": sum(len(each.methods) for each in known)}

    async def _queue(self, kind: str, name: str) -> None:
        stub = self._mesh.tasks()
        if kind == "pause":
            self._paused.add(name)
            await stub.PauseQueue(tasks_api.PauseQueueRequest(name=name))
        else:
            self._paused.discard(name)
            await stub.ResumeQueue(tasks_api.ResumeQueueRequest(name=name))

    async def _disturb(self, what: str, how: str | dict[str, Any]) -> None:
        mesh = self._mesh
        if isinstance(how, dict):
            await (mesh.restart_broker if what == "broker" else mesh.start_worker)(**how)
            return
        signals = {"freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
        if how in signals:
            (self._client.send if what == "client" else mesh.signal_workers)(signals[how])
            return
        doings: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {
            ("broker", "restart"): mesh.restart_broker,
            ("broker", "stop"): mesh.stop_broker,
            ("broker", "start"): mesh.start_broker,
            ("broker", "wipe"): mesh.wipe_broker,
            ("worker", "start"): mesh.start_worker,
            ("worker", "kill"): mesh.kill_workers,
            ("worker", "drain"): mesh.drain_workers,
            ("worker", "stop"): mesh.stop_workers,
            ("worker", "ended"): mesh.stopped_workers,
        }
        await doings[what, how]()


def _shown(task: task_pb2.Task) -> dict[str, Any]:
    """A task as cases have it."""
    found = messages.plain(task)
    found["state"] = found["state"].removeprefix(judge.STATE_PREFIX)
    # Times are those of the run; what can be expected is how long it may take in all.
    found["budget_s"] = task.expire_time.ToSeconds() - task.create_time.ToSeconds()
    return found
