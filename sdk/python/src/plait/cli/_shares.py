"""The commands of `plait share`."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from plait.cli._api import Api
from plait.cli._command import Exit, method_path
from plait.cli._output import age, time_left
from plait.cli._person import myself
from plait.cli._scheduler import scheduler_channel
from plait.cli._time import span_of
from plait.control.v1 import share_service_pb2 as pb
from plait.control.v1 import share_service_pb2_grpc as pb_grpc

_COLUMNS = ("METHOD", "KEY", "WEIGHT", "FOR", "SET", "BY", "REASON")


@contextlib.asynccontextmanager
async def _shares(api: Api) -> AsyncIterator["pb_grpc.ShareServiceAsyncStub"]:
    """The scheduler's service."""
    async with scheduler_channel(api) as channel:
        yield pb_grpc.ShareServiceStub(channel)


async def set_share(api: Api, method: str, said: Mapping[str, Any]) -> Exit:
    """Shows the weight as it is then."""
    request = pb.SetShareRequest(
        method=method_path(method),
        key=said["key"],
        weight=said["weight"],
        reason=said["reason"],
        set_by=myself(),
    )
    if said["span"] is not None:
        request.valid_for.FromTimedelta(span_of(said["span"]))
    async with _shares(api) as service:
        found = (await service.SetShare(request, timeout=api.timeout)).share
    api.output.item(found, _line(found))
    return Exit.OK


async def list_shares(api: Api, method: str | None) -> Exit:
    """A line for each key."""
    request = pb.ListSharesRequest(method=method_path(method) if method else "")
    async with _shares(api) as service:
        answer = await service.ListShares(request, timeout=api.timeout)
    rows = (
        (
            each.method.lstrip("/"),
            each.key,
            str(each.weight) if each.effective else f"{each.weight} (no turns)",
            time_left(each.expire_time),
            age(each.set_time),
            each.set_by,
            each.reason,
        )
        for each in answer.shares
    )
    api.output.items("shares", answer.shares, _COLUMNS, rows)
    return Exit.OK


async def clear_share(api: Api, method: str, key: str) -> Exit:
    """Says that the key has no weight any more."""
    request = pb.ClearShareRequest(method=method_path(method), key=key)
    async with _shares(api) as service:
        answer = await service.ClearShare(request, timeout=api.timeout)
    api.output.item(answer, f"{method.lstrip('/')} {key}: weight 1")
    return Exit.OK


def _line(found: pb.Share) -> str:
    """The weight, and why."""
    left = time_left(found.expire_time)
    left = f" for {left}" if left else ""
    reason = f' ("{found.reason}")' if found.reason else ""
    name = found.method.lstrip("/")
    return f"{name} {found.key}: weight {found.weight}, set by {found.set_by}{left}{reason}"
