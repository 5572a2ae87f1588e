"""A method that streams, in a stub over one of our channels."""

from typing import Any, NoReturn

import grpc


class Streaming:
    """Is refused when it is called, not when the stub is made."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise grpc.aio.UsageError(
            f"{self._method} streams, and a task has one request and one response"
        )
