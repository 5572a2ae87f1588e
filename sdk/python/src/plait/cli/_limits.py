"""The commands of `plait limit`, and what others show of limits."""

import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from plait.cli._api import Api
from plait.cli._command import Exit, Stop, method_path
from plait.cli._output import age, duration, time_left
from plait.cli._person import myself
from plait.cli._scheduler import scheduler_channel
from plait.cli._time import span_of
from plait.control.v1 import limit_service_pb2 as pb
from plait.control.v1 import limit_service_pb2_grpc as pb_grpc

_COLUMNS = ("METHOD", "RATE", "AT ONCE", "CONTRACT", "FOR", "SET", "BY", "REASON")
_RATE = re.compile(r"(\d{1,10})/(\d.*|ms|[smhd])")
_NONE = "none"
_COUNT_MAX = 2**31 - 1


@contextlib.asynccontextmanager
async def limits(api: Api) -> AsyncIterator["pb_grpc.LimitServiceAsyncStub"]:
    """The scheduler's service."""
    async with scheduler_channel(api) as channel:
        yield pb_grpc.LimitServiceStub(channel)


async def set_limit(api: Api, method: str, said: Mapping[str, Any]) -> Exit:
    """Shows the method as it is then."""
    request = pb.SetLimitRequest(method=method_path(method), reason=said["reason"], set_by=myself())
    if said["rate"] is None and said["concurrency"] is None:
        raise Stop(Exit.USAGE, "say what to limit: --rate 10/s, --concurrency 4, or both")
    if said["rate"] is not None:
        request.rate.CopyFrom(_rate_of(said["rate"]))
    if said["burst"] is not None:
        if not request.rate.limit:
            raise Stop(Exit.USAGE, "--burst needs a --rate")
        request.rate.burst = said["burst"]
    if said["concurrency"] is not None:
        request.concurrency = _count_of(said["concurrency"])
    if said["span"] is not None:
        request.valid_for.FromTimedelta(span_of(said["span"]))
    async with limits(api) as service:
        found = (await service.SetLimit(request, timeout=api.timeout)).method
    api.output.item(found, line(found))
    return Exit.OK


async def list_limits(api: Api) -> Exit:
    """A line for each method."""
    async with limits(api) as service:
        answer = await service.ListLimits(pb.ListLimitsRequest(), timeout=api.timeout)
    rows = (
        (
            each.method.lstrip("/"),
            _rate(each.in_force.rate) if each.in_force.HasField("rate") else "any",
            str(each.in_force.concurrency or "any"),
            _limits(each.contract) or "no limits" if each.HasField("contract") else "is gone",
            time_left(each.override.expire_time),
            age(each.override.set_time),
            each.override.set_by,
            each.override.reason,
        )
        for each in answer.methods
    )
    api.output.items("methods", answer.methods, _COLUMNS, rows)
    return Exit.OK


async def clear_limit(api: Api, method: str) -> Exit:
    """Shows the method as it is then."""
    request = pb.ClearLimitRequest(method=method_path(method))
    async with limits(api) as service:
        found = (await service.ClearLimit(request, timeout=api.timeout)).method
    api.output.item(found, line(found))
    return Exit.OK


async def of_service(api: Api, service_name: str) -> list[pb.LimitedMethod]:
    """Methods of a service; none where the scheduler knows no limits of operators yet."""
    return await _of(api, pb.ListLimitsRequest(service=service_name))


async def of_methods(api: Api, methods: Sequence[str]) -> list[pb.LimitedMethod]:
    """Those of some methods that an operator has set limits of; none where no scheduler answers,
    for what is shown beside them is the broker's.
    """
    try:
        found = await _of(api, pb.ListLimitsRequest())
    except (Stop, grpc.aio.AioRpcError):
        return []
    return [each for each in found if each.method in methods]


async def _of(api: Api, request: pb.ListLimitsRequest) -> list[pb.LimitedMethod]:
    try:
        async with limits(api) as service:
            return list((await service.ListLimits(request, timeout=api.timeout)).methods)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return []
        raise


def line(found: pb.LimitedMethod) -> str:
    """Which limits are in force, and why."""
    name, in_force = found.method.lstrip("/"), _limits(found.in_force) or "no limits"
    if not found.HasField("override"):
        return f"{name}: {in_force}, by its contract"
    override = found.override
    left = (
        f" for {time_left(override.expire_time)} more" if override.HasField("expire_time") else ""
    )
    reason = f' ("{override.reason}")' if override.reason else ""
    if not found.HasField("contract"):
        return f"{name}: no contract has it; limits of {override.set_by} wait{left}{reason}"
    contract = _limits(found.contract) or "no limits"
    return f"{name}: {in_force}, set by {override.set_by}{left}{reason}; its contract: {contract}"


def _limits(given: pb.Limits) -> str:
    parts = []
    if given.HasField("rate"):
        parts.append(_rate(given.rate))
    if given.concurrency:
        parts.append(f"{given.concurrency} at once")
    if given.concurrency_per_key:
        parts.append(f"{given.concurrency_per_key} at once of a key")
    return ", ".join(parts)


def _rate(rate: pb.Rate) -> str:
    """As it is written: "10/s", "100/5m"."""
    period = duration(rate.period)
    text = f"{rate.limit}/{period.removeprefix('1') if period in _WHOLE else period}"
    if rate.burst != rate.limit:
        text += f" (burst {rate.burst})"
    return text + (" of a key" if rate.by_key else "")


_WHOLE = ("1s", "1m", "1h", "1d")


def _rate_of(text: str) -> pb.Rate:
    if text == _NONE:
        return pb.Rate()
    found = _RATE.fullmatch(text)
    if found is None or not int(found[1]):
        raise Stop(Exit.USAGE, f'"{text}" is no rate: write 10/s, 100/5m, or none')
    period = Duration()
    period.FromTimedelta(span_of(found[2] if found[2][0].isdigit() else f"1{found[2]}"))
    return pb.Rate(limit=int(found[1]), period=period)


def _count_of(text: str) -> int:
    if text == _NONE:
        return 0
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _COUNT_MAX:
        raise Stop(Exit.USAGE, f'"{text}" is no number of attempts: write 4, or none')
    return int(text)
