"""Submits the runs of schedules through the public task service, as any submitter does: under the
method's route in force, with the keys that its policy takes from the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.rpc import status_pb2

from plait import _spans, errors
from plait._methods import Method
from plait._submission import Submission
from plait.v1 import contract_service_pb2 as contract_pb
from plait.v1 import contract_service_pb2_grpc as contract_grpc
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as pb
from plait.v1 import task_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.channel import CALL_SECONDS

# What a handler is told of its run, as gRPC metadata.
NAME_METADATA = "schedule-name"
TIME_METADATA = "schedule-time"
# What is refused with these is asked for again.
_TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
)
_FINAL = frozenset(
    (
        task_pb2.TASK_STATE_SUCCEEDED,
        task_pb2.TASK_STATE_FAILED,
        task_pb2.TASK_STATE_CANCELLED,
        task_pb2.TASK_STATE_EXPIRED,
    )
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task that is to be."""

    # The idempotency key: the same run, the same task.
    key: str
    # For the handler.
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    # Its task; "": it was refused.
    task: str = ""
    # Why it was refused.
    error: grpc.aio.AioRpcError | None = None

    @property
    def is_transient(self) -> bool:
        """Whether the same may be accepted later."""
        return self.error is not None and self.error.code() in _TRANSIENT


class Submitter:
    """Errors are grpc.aio.AioRpcError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._contracts: contract_grpc.ContractServiceAsyncStub = contract_grpc.ContractServiceStub(
            channel
        )
        self._tasks: pb_grpc.TaskServiceAsyncStub = pb_grpc.TaskServiceStub(channel)
        self._methods: dict[str, Method] = {}

    def forget(self) -> None:
        """A contract may have changed."""
        self._methods = {}

    async def refusal(self, path: str, request: bytes) -> grpc.aio.AioRpcError | None:
        """Why a task of this method and request would be refused, as far as can be told before:
        METHOD_UNKNOWN, KEY_MISSING, or a request that cannot be read.
        """
        method = await self._method(path)
        if method is None:
            return _unknown(path)
        submission = Submission(method, request, awaited=False)
        submission.idempotency_key = "of the run"
        return method.fill_keys(submission, request)

    async def submit(
        self, path: str, request: bytes, priority: int | None, wanted: Sequence[Wanted]
    ) -> list[Outcome]:
        """Submits a task for each that is wanted, with one request. What exists is found again.
        Where the broker no longer knows the method, it is asked about it and submitted to once
        more.
        """
        was_known = path in self._methods
        outcomes = await self._submit(path, request, priority, wanted)
        if was_known and any(_is_unknown(each) for each in outcomes):
            outcomes = await self._submit(path, request, priority, wanted)
        return outcomes

    async def _submit(
        self, path: str, request: bytes, priority: int | None, wanted: Sequence[Wanted]
    ) -> list[Outcome]:
        method = await self._method(path)
        if method is None:
            return [Outcome(error=_unknown(path))] * len(wanted)
        submissions = [_submission(method, request, priority, each) for each in wanted]
        for submission in submissions:
            error = method.fill_keys(submission, request)
            if error is not None:
                return [Outcome(error=error)] * len(wanted)
        try:
            answer = await self._tasks.SubmitTasks(
                pb.SubmitTasksRequest(tasks=_frame(submissions)), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            for submission in submissions:
                _finish(submission, error)
            raise
        return self._outcomes(method, submissions, answer.accepted)

    async def is_finished(self, task: str) -> bool:
        """Whether a task has come to its end; one that is not known has."""
        try:
            answer = await self._tasks.GetTask(pb.GetTaskRequest(id=task), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return True
            raise
        return answer.task.state in _FINAL

    async def cancel(self, task: str, reason: str) -> None:
        """Cancels a task; one that has ended, or is not known, stays as it is."""
        request = pb.CancelTaskRequest(id=task, reason=reason)
        try:
            await self._tasks.CancelTask(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    async def _method(self, path: str) -> Method | None:
        known = self._methods.get(path)
        if known is not None:
            return known
        answer = await self._contracts.ResolveMethods(
            contract_pb.ResolveMethodsRequest(methods=[path]), timeout=CALL_SECONDS
        )
        if not answer.methods:
            return None
        method = Method(path)
        method.resolved(answer.methods[0])
        self._methods[path] = method
        return method

    def _outcomes(
        self, method: Method, submissions: Sequence[Submission], accepted: pb.AcceptedFrame
    ) -> list[Outcome]:
        refusals = {each.index: each.status for each in accepted.refusals}
        outcomes = []
        for index, submission in enumerate(submissions):
            refusal = refusals.get(index)
            if refusal is None:
                submission.accept(accepted.tasks[index])
                outcomes.append(Outcome(task=f"t{submission.number:016x}"))
                continue
            outcome = _refused(refusal)
            if outcome.error is not None:
                _finish(submission, outcome.error)
                self._methods.pop(method.path, None)
            outcomes.append(outcome)
        return outcomes


def _unknown(path: str) -> grpc.aio.AioRpcError:
    return errors.new(
        grpc.StatusCode.FAILED_PRECONDITION,
        errors.Reason.METHOD_UNKNOWN,
        f"no contract declares {path}; start its worker, or push its contract",
        {"method": path},
    )


def _is_unknown(outcome: Outcome) -> bool:
    return (
        outcome.error is not None and errors.reason(outcome.error) == errors.Reason.METHOD_UNKNOWN
    )


def _submission(method: Method, request: bytes, priority: int | None, wanted: Wanted) -> Submission:
    submission = Submission(method, request, awaited=False)
    submission.idempotency_key = wanted.key
    metadata = wanted.metadata
    if _spans.configured():
        submission.span = _spans.SubmitSpan(method.name, to_result=False)
        metadata = (*metadata, *submission.span.headers)
    submission.options = task_pb2.TaskOptions(
        priority=priority,
        metadata=[task_pb2.Metadatum(key=key, value=value.encode()) for key, value in metadata],
    )
    return submission


def _frame(submissions: Sequence[Submission]) -> pb.SubmitFrame:
    ordered = any(each.ordering_key for each in submissions)
    limited = any(each.limit_key for each in submissions)
    return pb.SubmitFrame(
        methods=[submissions[0].method.route],
        payloads=[each.payload for each in submissions],
        idempotency_keys=[each.idempotency_key or "" for each in submissions],
        ordering_keys=[each.ordering_key or "" for each in submissions] if ordered else (),
        limit_keys=[each.limit_key or "" for each in submissions] if limited else (),
        options=[
            pb.IndexedOptions(index=index, options=each.options)
            for index, each in enumerate(submissions)
        ],
    )


def _refused(refusal: status_pb2.Status) -> Outcome:
    """A key with another request is a run that was submitted before the schedule was changed."""
    error = errors.from_status(refusal)
    if errors.reason(error) == errors.Reason.DUPLICATE_KEY_CONFLICT:
        task = errors.metadata(error).get("task", "")
        if task:
            return Outcome(task=task)
    return Outcome(error=error)


def _finish(submission: Submission, error: grpc.aio.AioRpcError) -> None:
    submission.finish(b"", error)
