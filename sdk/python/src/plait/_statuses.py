"""gRPC statuses in parts: a code, a message, the bytes of the details, and other trailers."""

from typing import Final

import grpc

DETAILS_KEY: Final = "grpc-status-details-bin"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def code_of(number: int) -> grpc.StatusCode:
    """The gRPC code with this number; UNKNOWN for a number that is none."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


def from_parts(
    code: int, message: str, details: bytes, trailers: tuple[tuple[str, str | bytes], ...] = ()
) -> grpc.aio.AioRpcError:
    """An error from a code, a message, the bytes of grpc-status-details-bin and other trailing
    metadata."""
    extra = ((DETAILS_KEY, details),) if details else ()
    return grpc.aio.AioRpcError(
        code_of(code), grpc.aio.Metadata(), grpc.aio.Metadata(*trailers, *extra), details=message
    )


def closed() -> grpc.aio.AioRpcError:
    """What a call on a closed client gets."""
    return from_parts(grpc.StatusCode.CANCELLED.value[0], "the client is closed", b"")
