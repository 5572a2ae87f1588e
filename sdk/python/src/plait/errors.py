"""Errors are gRPC errors: `grpc.aio.AioRpcError` with a code, a message and, from Plait itself, a
reason.

There is no exception type of Plait's that a program must know. A handler's own status and details
arrive as they
were; the functions here read the details that Plait adds.
"""

import contextlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from plait._statuses import DETAILS_KEY, from_parts

DOMAIN: Final = "plait"

M = TypeVar("M", bound=Message)


class Reason(StrEnum):
    """Why Plait refused; `google.rpc.ErrorInfo.reason`. The gRPC code stands beside each."""

    LEASE_LOST = "LEASE_LOST"
    """ABORTED: a message under a token that is no longer the task's."""
    QUEUE_FULL = "QUEUE_FULL"
    """RESOURCE_EXHAUSTED with RetryInfo: the queue is over its limit."""
    BREAKER_OPEN = "BREAKER_OPEN"
    """UNAVAILABLE with RetryInfo: an open breaker refused a call."""
    KEY_MISSING = "KEY_MISSING"
    """INVALID_ARGUMENT: the policy asks for a key and the task has none."""
    DUPLICATE_KEY_CONFLICT = "DUPLICATE_KEY_CONFLICT"
    """ALREADY_EXISTS: the same idempotency key with another request."""
    CONTRACT_INCOMPATIBLE = "CONTRACT_INCOMPATIBLE"
    """FAILED_PRECONDITION: a contract was refused."""
    FLOW_DIVERGED = "FLOW_DIVERGED"
    """FAILED_PRECONDITION: a re-run of a flow asked for other children than were recorded."""
    METHOD_UNKNOWN = "METHOD_UNKNOWN"
    """FAILED_PRECONDITION: no contract declares the method."""
    POLICY_INVALID = "POLICY_INVALID"
    """INVALID_ARGUMENT: a contract's policy cannot hold."""
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    """NOT_FOUND: no such task, or its retention has passed."""
    QUEUE_NOT_FOUND = "QUEUE_NOT_FOUND"
    """NOT_FOUND: no such queue."""
    TOO_LARGE = "TOO_LARGE"
    """INVALID_ARGUMENT: a payload, key or metadata over its limit, both in bytes."""
    INVALID_REQUEST = "INVALID_REQUEST"
    """INVALID_ARGUMENT: a malformed request."""
    DRAINING = "DRAINING"
    """UNAVAILABLE with RetryInfo: the process is going."""
    SCHEDULER_UNAVAILABLE = "SCHEDULER_UNAVAILABLE"
    """UNAVAILABLE: nobody can decide on a new contract now."""
    TASK_CANCELLED = "TASK_CANCELLED"
    """CANCELLED: the task was cancelled."""
    TASK_EXPIRED = "TASK_EXPIRED"
    """DEADLINE_EXCEEDED: the task's deadline passed."""
    ATTEMPT_TIMED_OUT = "ATTEMPT_TIMED_OUT"
    """DEADLINE_EXCEEDED: one attempt ran longer than attempt_timeout."""
    WORKER_LOST = "WORKER_LOST"
    """UNAVAILABLE: the worker vanished while it ran the attempt."""
    VERSION_MISMATCH = "VERSION_MISMATCH"
    """ABORTED: compare-and-swap found another version."""
    SLOW_READER = "SLOW_READER"
    """RESOURCE_EXHAUSTED: a reader was too slow and its stream was cut."""
    STATE_CONFLICT = "STATE_CONFLICT"
    """FAILED_PRECONDITION: the task's state does not allow the operation."""
    LOG_FAILED = "LOG_FAILED"
    """UNAVAILABLE: the log could not be written."""
    PAYLOAD_LOST = "PAYLOAD_LOST"
    """DATA_LOSS: the log's bytes of a request, response or metadata are not what was written."""
    LEADERSHIP_LOST = "LEADERSHIP_LOST"
    """ABORTED: another scheduler leads by now; the command changed nothing."""
    SCHEDULE_NOT_FOUND = "SCHEDULE_NOT_FOUND"
    """NOT_FOUND: no such schedule."""
    ROLLOUT_NOT_FOUND = "ROLLOUT_NOT_FOUND"
    """NOT_FOUND: the service has no rollout."""
    LIMIT_NOT_FOUND = "LIMIT_NOT_FOUND"
    """NOT_FOUND: no operator has set limits of the method."""
    TOO_MANY = "TOO_MANY"
    """RESOURCE_EXHAUSTED: there may be no more of what was to be made."""
    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    """NOT_FOUND: no such feature flag."""
    SHARE_NOT_FOUND = "SHARE_NOT_FOUND"
    """NOT_FOUND: no operator has given the key a weight."""


def status(error: BaseException) -> status_pb2.Status | None:
    """The google.rpc.Status in the error's trailing metadata; None when there is none that can be
    read."""
    for key, value in _trailers(error):
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def detail(error: BaseException, kind: type[M]) -> M | None:
    """The first detail of one kind, such as google.rpc.BadRequest; None when there is none that can
    be read."""
    return next(_details(error, kind), None)


def reason(error: BaseException) -> str | None:
    """Plait's reason, as in `Reason`; None for an error that is not Plait's own."""
    info = _info(error)
    return info.reason if info is not None else None


def metadata(error: BaseException) -> dict[str, str]:
    """The variable parts of Plait's message, such as "task"; empty for an error that is not Plait's
    own."""
    info = _info(error)
    return dict(info.metadata) if info is not None else {}


def retry_after(error: BaseException) -> float | None:
    """The seconds that google.rpc.RetryInfo asks to wait; None when it does not."""
    info = detail(error, error_details_pb2.RetryInfo)
    if info is None or not info.HasField("retry_delay"):
        return None
    return info.retry_delay.seconds + info.retry_delay.nanos / 1e9


def new(
    code: grpc.StatusCode,
    why: Reason,
    message: str,
    variables: Mapping[str, str] | None = None,
    *details: Message,
) -> grpc.aio.AioRpcError:
    """An error of Plait's own: code, message and google.rpc.ErrorInfo, then other details."""
    return from_status(new_status(code, why, message, variables, *details))


def new_status(
    code: grpc.StatusCode,
    why: Reason,
    message: str,
    variables: Mapping[str, str] | None = None,
    *details: Message,
) -> status_pb2.Status:
    """The google.rpc.Status of an error of Plait's own."""
    made = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=why, domain=DOMAIN, metadata=variables or {})
    for item in (info, *details):
        made.details.add().Pack(item)
    return made


def from_status(refusal: status_pb2.Status) -> grpc.aio.AioRpcError:
    """A google.rpc.Status as the error that gRPC would have raised for it."""
    details = refusal.SerializeToString() if refusal.details else b""
    return from_parts(refusal.code, refusal.message, details)


def _trailers(error: BaseException) -> list[tuple[str, str | bytes]]:
    if not isinstance(error, grpc.RpcError):
        return []
    read = getattr(error, "trailing_metadata", None)
    return list((read() if read is not None else None) or ())


def _info(error: BaseException) -> error_details_pb2.ErrorInfo | None:
    found = _details(error, error_details_pb2.ErrorInfo)
    return next((info for info in found if info.domain == DOMAIN), None)


def _details(error: BaseException, kind: type[M]) -> Iterator[M]:
    """Details of one kind. What cannot be read is passed over: errors are read where things go
    wrong already."""
    found = status(error)
    for packed in found.details if found is not None else ():
        made = kind()
        with contextlib.suppress(DecodeError):
            # Answers False, and changes nothing, where the detail is of another kind.
            if packed.Unpack(made):
                yield made
