"""The work in flight, read through the broker's public task service.

The broker has no index by method: a list walks over all tasks, some thousands a millisecond. So
what the queues' figures rule out is not looked for, pages end at a bound, and a look ends in time.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import grpc

from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as pb
from plait.v1 import task_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.channel import CALL_SECONDS
from plait_scheduler.broker.retry import bounded
from plait_scheduler.domain.change import Part
from plait_scheduler.domain.work import TASKS_MAX, Work, WorkTask

PAGE_SIZE = 1000
QUEUES_MAX = 10_000
_STATES = ("SCHEDULED", "READY", "RUNNING", "BACKOFF", "SUSPENDED", "PARKED")
_FINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_OPEN = " AND ".join(f"state != {state}" for state in _FINAL)
_CLOSED = " AND ".join(f"state != {state}" for state in _STATES)


@dataclass(slots=True)
class _Figures:
    """What the queues hold, by method."""

    # Whether there are unfinished tasks at all.
    busy: bool = False
    # Methods whose queue has some.
    unfinished: set[str] = field(default_factory=set)
    # Methods whose queue has dead letters.
    dead: set[str] = field(default_factory=set)
    # Methods that have a queue at all.
    known: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Flows:
    """Unfinished tasks that have children."""

    ids: set[str]
    # Whether there may be more.
    more: bool


class WorkInFlight:
    """Looks for tasks. Errors are grpc.aio.AioRpcError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.TaskServiceAsyncStub = pb_grpc.TaskServiceStub(channel)

    async def of(
        self, wanted: Mapping[str, frozenset[Part]], look_seconds: float
    ) -> dict[str, Work]:
        """The work of methods, by full path, as far as these parts are wanted of each. What is not
        found in so many seconds is not looked for.
        """
        if not wanted:
            return {}
        end = time.monotonic() + look_seconds
        figures = await self._figures()
        flows = _Flows(set(), more=False)
        if figures.busy and any(Part.RECORDED in parts for parts in wanted.values()):
            flows = await self._flows(end)
        return {
            method: await self._work(method, parts & _possible(method, figures, flows), flows, end)
            for method, parts in wanted.items()
        }

    async def _figures(self) -> _Figures:
        figures = _Figures()
        token = ""
        for _ in range(QUEUES_MAX // PAGE_SIZE):
            request = pb.ListQueuesRequest(page_size=PAGE_SIZE, page_token=token)
            answer = pb.ListQueuesResponse()
            async for attempt in bounded():
                with attempt:
                    answer = await self._stub.ListQueues(request, timeout=CALL_SECONDS)
            for queue in answer.queues:
                figures.known.update(queue.methods)
                if any(_name(each.state) in _STATES and each.count for each in queue.counts):
                    figures.busy = True
                    figures.unfinished.update(queue.methods)
                if queue.dead_letter_count:
                    figures.dead.update(queue.methods)
            token = answer.next_page_token
            if not token:
                break
        return figures

    async def _flows(self, end: float) -> _Flows:
        """A flow has begun, or it would have no children."""
        flows = _Flows(set(), more=True)
        async with aclosing(self._list(f"{_OPEN} AND attempt >= 1", end)) as listed:
            async for task in listed:
                if task is None:
                    flows.more = False
                elif task.child_count:
                    flows.ids.add(task.id)
                if len(flows.ids) > TASKS_MAX:
                    break
        return flows

    async def _work(self, method: str, parts: Iterable[Part], flows: _Flows, end: float) -> Work:
        tasks: list[WorkTask] = []
        more = False
        for part in parts:
            more |= not await self._part(method, part, flows, tasks, end)
            more |= part is Part.RECORDED and flows.more
        return Work(tuple(tasks), more)

    async def _part(
        self, method: str, part: Part, flows: _Flows, tasks: list[WorkTask], end: float
    ) -> bool:
        """Adds the tasks of a part; says whether those are all."""
        where = f'method = "{method}" AND {_WHERE[part]}'
        async with aclosing(self._list(where, end)) as listed:
            async for task in listed:
                if task is None:
                    return True
                if part is not Part.RECORDED or task.parent in flows.ids:
                    tasks.append(_work_task(part, task))
                if len(tasks) > TASKS_MAX:
                    return False
        return False

    async def _list(self, where: str, end: float) -> AsyncGenerator[task_pb2.Task | None, None]:
        """Tasks, newest first, and None once there are no more of them; without it, time is up."""
        token = ""
        while (left := end - time.monotonic()) > 0:
            request = pb.ListTasksRequest(filter=where, page_size=PAGE_SIZE, page_token=token)
            answer = pb.ListTasksResponse()
            try:
                async for attempt in bounded():
                    with attempt:
                        answer = await self._stub.ListTasks(request, timeout=left)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return
                raise
            for task in answer.tasks:
                yield task
            token = answer.next_page_token
            if not token:
                yield None
                return


_WHERE = {
    Part.UNFINISHED: _OPEN,
    Part.DEAD_LETTER: "dead_letter = true",
    Part.RECORDED: f'parent != "" AND {_CLOSED}',
}


def _possible(method: str, figures: _Figures, flows: _Flows) -> frozenset[Part]:
    """The parts that the figures do not rule out."""
    parts = set()
    if method in figures.unfinished or method not in figures.known:
        parts.add(Part.UNFINISHED)
    if method in figures.dead or method not in figures.known:
        parts.add(Part.DEAD_LETTER)
    if flows.ids or flows.more:
        parts.add(Part.RECORDED)
    return frozenset(parts)


def _work_task(part: Part, task: task_pb2.Task) -> WorkTask:
    return WorkTask(
        id=task.id,
        part=part,
        state=_name(task.state),
        create_ms=task.create_time.ToMilliseconds(),
        end_ms=task.end_time.ToMilliseconds(),
        attempt=task.attempt,
    )


def _name(state: "task_pb2.TaskState.ValueType") -> str:
    return task_pb2.TaskState.Name(state).removeprefix("TASK_STATE_")
