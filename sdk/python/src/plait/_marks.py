"""Retries stay next to the failure: a handler whose own call was tried again, or was not to be, and
failed for good tells its caller not to try it once more."""

from contextvars import ContextVar
from typing import Any, Final

import grpc

from plait._verdicts import CANDIDATES

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
_STOP: Final = (PUSHBACK_KEY, "-1")


class Mark:
    """What a call that is being served knows of those it makes."""

    __slots__ = ("stop",)

    def __init__(self) -> None:
        # Whether one of them failed for good.
        self.stop = False


current: ContextVar[Mark | None] = ContextVar("plait_mark", default=None)


def stop_above() -> None:
    """A call that was made here failed for good, and is not to be tried again above."""
    mark = current.get()
    if mark is not None:
        mark.stop = True


class MarkedContext:
    """gRPC's context of a handler, which adds the word to a failure's trailing metadata."""

    def __init__(self, inner: Any, mark: Mark) -> None:
        self._inner = inner
        self._mark = mark
        self._trailers: tuple[Any, ...] = ()
        self._code: grpc.StatusCode | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code
        self._inner.set_code(code)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailers = tuple(trailing_metadata)
        self._inner.set_trailing_metadata(self._trailers)

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Any:
        """Ends the call; to be awaited where the handler is a coroutine."""
        trailers = tuple(trailing_metadata) or self._trailers
        if self._mark.stop and code in CANDIDATES:
            trailers += (_STOP,)
        return self._inner.abort(code, details, trailers)

    def abort_with_status(self, status: grpc.Status) -> Any:
        """As `abort`, with what a status says."""
        return self.abort(status.code, status.details, status.trailing_metadata or ())

    def ended(self, *, raised: bool) -> None:
        """The handler is over, by an error of its own or with the code that it set."""
        code = self._code or (grpc.StatusCode.UNKNOWN if raised else grpc.StatusCode.OK)
        if self._mark.stop and code in CANDIDATES:
            self._inner.set_trailing_metadata((*self._trailers, _STOP))
