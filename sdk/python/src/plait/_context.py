"""The `context` of a handler: what any gRPC server gives it, for a task."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

import grpc

from plait import _statuses, errors
from plait._attempt import invocation_metadata
from plait._run import Run
from plait.v1 import task_pb2, task_service_pb2

_OK = grpc.StatusCode.OK


class HandlerContext(grpc.aio.ServicerContext[Any, Any]):
    """The context of an async handler.

    Initial metadata and compression have no meaning for a task and are ignored. Trailing metadata
    travels with
    failures only.
    """

    __slots__ = ("_code", "_details", "_metadata", "_trailers", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailers: tuple[tuple[str, str | bytes], ...] = ()
        self._metadata: grpc.aio.Metadata | None = None

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Any = (),
    ) -> NoReturn:
        self.abort_now(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.abort_now(status.code, status.details, status.trailing_metadata)

    def abort_now(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> NoReturn:
        """Sets the status and ends the handler. Raises AbortError, or ValueError for OK."""
        if code is _OK:
            raise ValueError("abort() is for failures; return the response instead")
        self._code, self._details = code, details
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        raise grpc.aio.AbortError("Locally aborted.")

    async def read(self) -> NoReturn:
        raise grpc.aio.UsageError("a task has one request; it is the handler's argument")

    async def write(self, message: Any) -> NoReturn:
        raise grpc.aio.UsageError("a task has one response; the handler returns it")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        return None

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self._trailers

    def invocation_metadata(self) -> grpc.aio.Metadata:
        if self._metadata is None:
            self._metadata = grpc.aio.Metadata(*invocation_metadata(self.run))
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> Any:
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        return None

    def disable_next_message_compression(self) -> None:
        return None

    def peer(self) -> str:
        """The broker that sent the task."""
        return self.run.holdings.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {}

    def time_remaining(self) -> float:
        """Seconds left for the attempt. A task always has a deadline."""
        return max(0.0, self.run.deadline - time.monotonic())

    def cancelled(self) -> bool:
        """Whether the attempt was told to stop."""
        return self.run.stopped

    def done(self) -> bool:
        return self.run.stopped or self.run.finished

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back with this context when the attempt is told to stop or the handler has
        ended."""
        if self.run.on_end is None:
            self.run.on_end = []
        self.run.on_end.append(lambda: callback(self))

    def failure(self) -> task_service_pb2.Failure | None:
        """The failure that the handler set; None when it set none."""
        if self._code is None or self._code is _OK:
            return None
        return failure_of(self._code, self._details, self._trailers)

    def failure_after(self, error: BaseException) -> task_service_pb2.Failure:
        """The failure for what a handler raised.

        An error of gRPC goes through as it is, so that a flow fails as its child did. Anything else
        is UNKNOWN with
        its text, or the code that was set.
        """
        if isinstance(error, grpc.aio.AbortError) and (made := self.failure()) is not None:
            return made
        code = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
        if code is not None:
            rpc = cast("grpc.aio.AioRpcError", error)
            return failure_of(rpc.code(), rpc.details() or "", rpc.trailing_metadata() or ())
        code = self._code
        if code is None or code is _OK:
            code = grpc.StatusCode.UNKNOWN
        details = self._details or f"Unexpected {type(error)}: {error}"
        return failure_of(code, details, self._trailers)


class SyncContext:
    """The context of a handler that is a plain function, in a thread: the same, but abort is no
    coroutine."""

    def __init__(self, inner: HandlerContext) -> None:
        self._inner = inner

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self._inner.abort_now(code, details, ())

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self._inner.abort_now(status.code, status.details, status.trailing_metadata)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def failure_of(
    code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, str | bytes]]
) -> task_service_pb2.Failure:
    """A failure as it travels: grpc-status-details-bin apart, and no other reserved key."""
    made = task_service_pb2.Failure(code=code.value[0], message=details)
    for key, value in trailers:
        raw = value if isinstance(value, bytes) else value.encode()
        if key == _statuses.DETAILS_KEY:
            made.details = raw
        elif not key.startswith("grpc-"):
            made.trailers.append(task_pb2.Metadatum(key=key, value=raw))
    return made


def plait_failure(
    code: grpc.StatusCode, why: errors.Reason, message: str, variables: Mapping[str, str]
) -> task_service_pb2.Failure:
    """A failure of Plait's own, with its ErrorInfo."""
    status = errors.new_status(code, why, message, variables)
    return task_service_pb2.Failure(
        code=status.code, message=message, details=status.SerializeToString()
    )
