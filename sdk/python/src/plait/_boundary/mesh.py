"""Sends messages through the workers of a mesh, and finds out who answered what.

No task can be sent to one worker. But copies of one message that are submitted together to idle
workers go to one each: the broker gives the least loaded, and of those the longest idle, its share
in a row. So all cases of a batch go out once, then all once more, as often as there are workers;
what a worker has not seen then is sent again, a few times.
"""

import asyncio
import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration

from plait import errors
from plait._boundary.answers import Answer, of_error
from plait._boundary.cases import Case
from plait.v1 import contract_service_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc

ROUNDS: Final = 12
"""How often a message is sent to all workers before one that has not seen it counts as not covered.

Measured: with four idle workers of the same methods one round reaches each. Where one of five has
other methods a message is sent 1.6 times as often, with eight workers and three tests at once
2.3 times, and six rounds once did not reach one.
"""

# So many rounds that reach nobody new are the last: a worker may have gone.
_IDLE_ROUNDS: Final = 5
_BATCH_MAX: Final = 64
# Of one submission, below the broker's own limits of 4096 tasks and 4 MiB.
_FRAME_TASKS_MAX: Final = 4000
_FRAME_BYTES_MAX: Final = 3 << 20
_STREAMS_MAX: Final = 64
_REFUSED_MAX: Final = 10
# A task that nobody can finish is told about by the broker at its deadline; this is for the broker.
_PATIENCE_S: Final = 30.0
_DEADLINE_EXCEEDED: Final = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
_FINAL: Final = frozenset(
    {
        task_pb2.TASK_STATE_SUCCEEDED,
        task_pb2.TASK_STATE_FAILED,
        task_pb2.TASK_STATE_CANCELLED,
        task_pb2.TASK_STATE_EXPIRED,
    }
)


@dataclass(frozen=True, slots=True)
class WorkerOf:
    """A worker that serves the method."""

    id: str
    """Its id, new with each process."""
    label: str
    """Its name, and its id where several have that name."""
    sdk: str
    """Name and version of its SDK."""
    slots: int
    """Attempts it can run at once."""


@dataclass
class Seen:
    """What became of one case."""

    case: Case
    answers: dict[str, Answer] = field(default_factory=dict)
    """The first answer of each worker, by id."""
    refused: str = ""
    """Why the broker did not take it; "" when it did."""


class Sender:
    """Sends one method's messages."""

    def __init__(
        self,
        stub: "task_service_pb2_grpc.TaskServiceAsyncStub",
        info: contract_service_pb2.MethodInfo,
        workers: Sequence[WorkerOf],
        deadline: float,
    ) -> None:
        """deadline: seconds that each task has."""
        self._stub = stub
        self._info = info
        self._workers = workers
        self._deadline = deadline
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._streams = asyncio.Semaphore(_STREAMS_MAX)
        self.submitted = 0

    async def send(self, cases: Iterable[Case], wanted: frozenset[str]) -> list[Seen]:
        """Sends each case until every wanted worker has answered it, or has had its chances."""
        found = [Seen(case) for case in cases]
        await self.send_again(found, wanted)
        return found

    async def send_again(self, cases: Sequence[Seen], wanted: frozenset[str]) -> None:
        """The same of cases that lack answers."""
        for batch in self._batches(cases):
            await self._send_batch(batch, wanted)

    def _batches(self, cases: Sequence[Seen]) -> Iterator[list[Seen]]:
        """What the slots of every worker have room for, and what one submission holds: parts of a
        batch that come later find workers that are not idle."""
        copies = len(self._workers)
        most = min(_BATCH_MAX, _FRAME_TASKS_MAX // copies, *(each.slots for each in self._workers))
        batch: list[Seen] = []
        size = 0
        for each in cases:
            size += len(each.case.payload) * copies
            if batch and (len(batch) >= most or size > _FRAME_BYTES_MAX):
                yield batch
                batch, size = [], len(each.case.payload) * copies
            batch.append(each)
        if batch:
            yield batch

    def copies_to_fill(self) -> int:
        """How many tasks at once fill every slot of every worker: twice the slots, since shares are
        not equal where workers serve different methods."""
        return 2 * len(self._workers) * max(each.slots for each in self._workers)

    async def burst(self, case: Case, copies: int) -> None:
        """Sends one case so often at once, and waits until all of it has ended."""
        await self._round([Seen(case)] * copies, self._deadline)

    async def probe(self, case: Case, wanted: frozenset[str], seconds: float) -> Seen:
        """Sends a case with a deadline of its own; who has started it and not answered by then has
        the answer DEADLINE_EXCEEDED."""
        seen = Seen(case)
        for _ in range(ROUNDS):
            if wanted <= seen.answers.keys() or seen.refused:
                break
            await self._round([seen] * len(self._workers), seconds)
        return seen

    async def _send_batch(self, batch: Sequence[Seen], wanted: frozenset[str]) -> None:
        idle = known = 0
        for number in range(ROUNDS):
            left = [each for each in batch if not each.refused and wanted - each.answers.keys()]
            if not left or idle >= _IDLE_ROUNDS:
                return
            # In another order each time, so that what went wrong once does so only once.
            left = left[number % len(left) :] + left[: number % len(left)]
            await self._round(left * len(self._workers), self._deadline)
            answered = sum(len(each.answers) for each in batch)
            idle = idle + 1 if answered == known else 0
            known = answered

    async def _round(self, sent: Sequence[Seen], seconds: float) -> None:
        """Submits in frames; watches each until it has an answer."""
        async with asyncio.TaskGroup() as watching:
            frame: list[Seen] = []
            size = 0
            for each in sent:
                if frame and (
                    len(frame) >= _FRAME_TASKS_MAX
                    or size + len(each.case.payload) > _FRAME_BYTES_MAX
                ):
                    await self._submit(frame, seconds, watching)
                    frame, size = [], 0
                frame.append(each)
                size += len(each.case.payload)
            await self._submit(frame, seconds, watching)

    async def _submit(
        self, frame: Sequence[Seen], seconds: float, watching: asyncio.TaskGroup
    ) -> None:
        request = task_service_pb2.SubmitTasksRequest(tasks=self._frame(frame, seconds))
        answer = await self._accepted(request)
        refused = {each.index: each.status for each in answer.refusals}
        self.submitted += len(frame) - len(refused)
        for index, (seen, number) in enumerate(zip(frame, answer.tasks, strict=True)):
            if index in refused:
                error = errors.from_status(refused[index])
                seen.refused = f"{errors.reason(error) or error.code().name}: {error.details()}"
            else:
                watching.create_task(self._watch(f"t{number:016x}", seen, seconds))

    async def _accepted(
        self, request: task_service_pb2.SubmitTasksRequest
    ) -> task_service_pb2.AcceptedFrame:
        """Submits, and waits while the queue is full."""
        for _ in range(_REFUSED_MAX):
            try:
                answer = await self._stub.SubmitTasks(request, timeout=_PATIENCE_S)
                return answer.accepted
            except grpc.aio.AioRpcError as error:
                pause = errors.retry_after(error)
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or pause is None:
                    raise
                await asyncio.sleep(pause)
        raise errors.new(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            errors.Reason.QUEUE_FULL,
            f"the queue {self._info.queue} stays full",
        )

    def _frame(self, frame: Sequence[Seen], seconds: float) -> task_service_pb2.SubmitFrame:
        """Each with keys of its own, which win over those of the policy's path: equal requests are
        not one task, and none waits for another."""
        keys = [f"plait-contract-test/{self._run}/{next(self._numbers)}" for _ in frame]
        deadline = Duration()
        deadline.FromNanoseconds(int(seconds * 1e9))
        return task_service_pb2.SubmitFrame(
            methods=[self._info.method],
            payloads=[each.case.payload for each in frame],
            idempotency_keys=keys,
            ordering_keys=keys if self._info.HasField("ordering_key") else (),
            limit_keys=keys if self._info.HasField("limit_key") else (),
            common=task_pb2.TaskOptions(deadline=deadline),
        )

    async def _watch(self, task_id: str, seen: Seen, seconds: float) -> None:
        request = task_service_pb2.WatchTaskRequest(id=task_id, view=task_pb2.TASK_VIEW_FULL)
        async with self._streams:
            call = self._stub.WatchTask(request, timeout=seconds + _PATIENCE_S)
            try:
                async for answer in call:
                    if self._take(answer.task, seen):
                        break
            finally:
                call.cancel()
        if answer.task.state not in _FINAL:
            # Its first attempt has failed, and that is the answer; it is not to be run again.
            cancel = task_service_pb2.CancelTaskRequest(id=task_id, reason="a contract test")
            await self._stub.CancelTask(cancel, timeout=_PATIENCE_S)

    @staticmethod
    def _take(task: task_pb2.Task, seen: Seen) -> bool:
        """Keeps the answer of a task's latest attempt that has ended; False while there is none."""
        if task.state not in _FINAL and not task.HasField("error"):
            return False
        ended = _last_attempt(task)
        if ended is None:
            # It waited until its deadline; nobody has answered.
            return True
        worker, took = ended
        if task.state == task_pb2.TASK_STATE_SUCCEEDED:
            answer = Answer(response=task.response, took=took)
        elif task.state == task_pb2.TASK_STATE_EXPIRED:
            answer = Answer(_DEADLINE_EXCEEDED, errors.Reason.TASK_EXPIRED, took=took)
        else:
            answer = of_error(task.error, took)
        if answer.reason != errors.Reason.TASK_CANCELLED:
            seen.answers.setdefault(worker, answer)
        return True


def _last_attempt(task: task_pb2.Task) -> tuple[str, float] | None:
    """The worker of the latest attempt that has ended, and its seconds. Another one may have been
    given out meanwhile; of a final task it is the attempt that it ended with, if any."""
    started: task_pb2.TaskEvent | None = None
    found: tuple[str, float] | None = None
    for event in task.events:
        if event.cause == "STARTED":
            started = event
            continue
        if started is not None:
            took = (event.time.ToNanoseconds() - started.time.ToNanoseconds()) / 1e9
            found = (started.worker, took)
        elif task.state in _FINAL:
            found = None
        started = None
    return found
