"""How servicers refuse: by a gRPC status whose ErrorInfo says why."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from plait import errors

Context = grpc.aio.ServicerContext[Any, Any]


async def refuse(context: Context, refusal: status_pb2.Status) -> NoReturn:
    """Ends the call with a status as it is."""
    await context.abort_with_status(rpc_status.to_status(refusal))
    raise AssertionError("abort_with_status raises")


async def abort(
    context: Context,
    code: grpc.StatusCode,
    reason: errors.Reason,
    text: str,
    metadata: Mapping[str, str] | None = None,
) -> NoReturn:
    """Ends the call with a reason and its metadata."""
    await refuse(context, errors.new_status(code, reason, text, dict(metadata or {})))


async def invalid(
    context: Context, faults: Iterable[tuple[str, str]], prefix: str = ""
) -> NoReturn:
    """INVALID_ARGUMENT for what is wrong with fields: their names, after the prefix, and why."""
    found = list(faults)
    request = error_details_pb2.BadRequest()
    for field, why in found:
        request.field_violations.add(field=prefix + field, description=why)
    text = "; ".join(f"{field}: {why}" for field, why in found)
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, errors.Reason.INVALID_REQUEST
    await refuse(context, errors.new_status(code, reason, text, {}, request))


async def too_many(context: Context, what: str, most: int) -> NoReturn:
    """RESOURCE_EXHAUSTED: there may be no more of something."""
    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Reason.TOO_MANY
    text = f"there are {most:,} {what}, and may be no more: remove some"
    await abort(context, code, reason, text, {"max": str(most)})


async def unknown_method(context: Context, method: str) -> NoReturn:
    """FAILED_PRECONDITION: nobody has announced a contract with the method."""
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.METHOD_UNKNOWN
    text = f"no contract in force has {method}"
    await abort(context, code, reason, text, {"method": method})


async def pass_on(context: Context, error: grpc.aio.AioRpcError) -> NoReturn:
    """An answer of the broker, or one in its place, as it was."""
    found = errors.status(error)
    if found is not None:
        await refuse(context, found)
    await context.abort(error.code(), error.details() or "")
    raise AssertionError("abort raises")
