"""Errors: gRPC statuses, between the wire's three forms of them (protocol §6)."""

import contextlib
from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from plait.v1 import errors_pb2, task_pb2
from plait.v1 import task_service_pb2 as tasks_api

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "plait"
PREFIX = "ERROR_REASON_"


class StatusError(Exception):
    """A status that is not OK, and the trailing metadata that came with it."""

    def __init__(
        self, status: status_pb2.Status, trailers: Sequence[task_pb2.Metadatum] = ()
    ) -> None:
        super().__init__(f"{status.code}: {status.message}")
        self.status = status
        self.trailers = tuple(trailers)

    @property
    def reason(self) -> str:
        """The reason of an error that is Plait's own, "" for any other."""
        for detail in self.status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                return info.reason
        return ""


def error(code: int, message: str, *details: Message) -> StatusError:
    """An error that is made here."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return StatusError(status)


def refused(code: int, reason: "errors_pb2.ErrorReason.ValueType", message: str) -> StatusError:
    """An error with a reason of Plait's."""
    name = errors_pb2.ErrorReason.Name(reason).removeprefix(PREFIX)
    return error(code, message, error_details_pb2.ErrorInfo(domain=DOMAIN, reason=name))


def of_failure(failure: tasks_api.Failure) -> StatusError:
    """A task's failure, as its caller is told."""
    # Code and message have fields of their own; the status in the details is there for its details.
    return StatusError(_status(failure.code, failure.message, failure.details), failure.trailers)


def of_call(failed: grpc.aio.AioRpcError) -> StatusError:
    """What a call to the broker ended with."""
    details = dict(failed.trailing_metadata() or ()).get(DETAILS_KEY, b"")
    assert isinstance(details, bytes)
    return StatusError(_status(failed.code().value[0], failed.details() or "", details))


def _status(code: int, message: str, details: bytes) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    with contextlib.suppress(DecodeError):  # a handler may send any bytes there
        status.details.extend(status_pb2.Status.FromString(details).details)
    return status


def to_failure(failed: StatusError, index: int) -> tasks_api.Failure:
    """How an attempt ended, for an OutcomeFrame."""
    status = failed.status
    details = status.SerializeToString() if status.details else b""
    return tasks_api.Failure(
        index=index,
        code=status.code,
        message=status.message,
        details=details,
        trailers=failed.trailers,
    )
