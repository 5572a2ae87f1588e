"""The commands of `plait fault`."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2

from plait.cli._api import Api
from plait.cli._command import Exit, Stop, method_path
from plait.cli._output import duration, span
from plait.cli._person import myself
from plait.cli._scheduler import scheduler_channel
from plait.cli._time import span_of
from plait.control.v1 import fault_service_pb2 as pb
from plait.control.v1 import fault_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_COLUMNS = ("METHOD", "FAULT", "ENDS IN", "SET BY")


@dataclass(frozen=True)
class Said:
    """What the flags say."""

    abort: str | None
    delay: str | None
    share: int
    """Of a million."""
    duration: str


async def set_fault(api: Api, method: str, said: Said) -> Exit:
    """Shows it."""
    if said.abort is None and said.delay is None:
        raise Stop(Exit.USAGE, "say what calls are to suffer: --abort CODE, --delay SPAN or both")
    share = max(1, said.share)
    request = pb.SetFaultRequest(
        method=method_path(method), duration=_duration(said.duration), set_by=myself()
    )
    if said.abort is not None:
        request.abort.CopyFrom(pb.FaultAbort(code=_code(said.abort), per_million=share))
    if said.delay is not None:
        request.delay.CopyFrom(pb.FaultDelay(delay=_duration(said.delay), per_million=share))
    async with _service(api) as stub:
        answer = await stub.SetFault(request, timeout=api.timeout)
    fault = answer.fault
    api.output.item(fault, f"{_name(fault)}: {_what(fault)}, for {_left(fault)}")
    return Exit.OK


async def list_faults(api: Api) -> Exit:
    """By method."""
    async with _service(api) as stub:
        answer = await stub.ListFaults(pb.ListFaultsRequest(), timeout=api.timeout)
    rows = ((_name(each), _what(each), _left(each), each.set_by) for each in answer.faults)
    api.output.items("faults", answer.faults, _COLUMNS, rows)
    return Exit.OK


async def clear(api: Api, method: str) -> Exit:
    """Says so."""
    request = pb.ClearFaultRequest(method=method_path(method), cleared_by=myself())
    async with _service(api) as stub:
        answer = await stub.ClearFault(request, timeout=api.timeout)
    if not answer.HasField("fault"):
        raise Stop(Exit.NOT_FOUND, f"{request.method.lstrip('/')} has no fault")
    api.output.item(answer.fault, f"{_name(answer.fault)}: cleared")
    return Exit.OK


@contextlib.asynccontextmanager
async def _service(api: Api) -> "AsyncIterator[pb_grpc.FaultServiceAsyncStub]":
    async with scheduler_channel(api) as channel:
        yield pb_grpc.FaultServiceStub(channel)


def _code(text: str) -> Any:
    refusal = f'"{text}" is no code of a failure: write one such as UNAVAILABLE'
    try:
        found = code_pb2.Code.Value(text.upper())
    except ValueError as error:
        raise Stop(Exit.USAGE, refusal) from error
    if found == code_pb2.OK:
        raise Stop(Exit.USAGE, refusal)
    return found


def _duration(text: str) -> Duration:
    made = Duration()
    made.FromTimedelta(span_of(text))
    return made


def _name(fault: pb.Fault) -> str:
    return fault.method.lstrip("/")


def _what(fault: pb.Fault) -> str:
    found = []
    if fault.HasField("delay"):
        late = duration(fault.delay.delay)
        found.append(f"{_percent(fault.delay.per_million)} late by {late}")
    if fault.HasField("abort"):
        code = code_pb2.Code.Name(fault.abort.code)
        found.append(f"{_percent(fault.abort.per_million)} fail with {code}")
    return ", ".join(found)


def _percent(per_million: int) -> str:
    return f"{per_million / 10_000:g}%"


def _left(fault: pb.Fault) -> str:
    return span((fault.end_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds())
