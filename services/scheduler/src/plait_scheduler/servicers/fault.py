"""The fault service: direct calls that are late, or fail, since an operator wants to see that."""

from collections.abc import Callable
from typing import Any

import grpc

from plait.control.v1 import fault_service_pb2 as pb
from plait.control.v1 import fault_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.times import to_duration, to_timestamp
from plait_scheduler.domain.call_fault import Abort, CallFault, Delay, check
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.refusing import Context, invalid, pass_on, too_many
from plait_scheduler.xds.faults import FAULTS_MAX, Faults, TooManyFaultsError


class FaultServicer(pb_grpc.FaultServiceServicer):
    """Changes what callers are told, and shows it."""

    def __init__(self, faults: Faults, doors: Doors, now_ms: Callable[[], int]) -> None:
        self._faults = faults
        self._doors = doors
        self._now_ms = now_ms

    async def SetFault(self, request: pb.SetFaultRequest, context: Context) -> pb.SetFaultResponse:
        """Answers when it is durable; callers are told at once."""
        await self._doors.check(context)
        now_ms = self._now_ms()
        fault = _fault(request, now_ms)
        wrong = check(fault)
        if wrong:
            await invalid(context, wrong)
        try:
            await self._faults.put(fault)
        except TooManyFaultsError:
            await too_many(context, "faults", FAULTS_MAX)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        return pb.SetFaultResponse(fault=_message(fault))

    async def ListFaults(
        self, request: pb.ListFaultsRequest, context: Context
    ) -> pb.ListFaultsResponse:
        """By method."""
        await self._doors.check(context)
        try:
            found = await self._faults.all()
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        return pb.ListFaultsResponse(faults=[_message(each) for _, each in sorted(found.items())])

    async def ClearFault(
        self, request: pb.ClearFaultRequest, context: Context
    ) -> pb.ClearFaultResponse:
        """Answers when it is durable; callers are told at once."""
        await self._doors.check(context)
        try:
            found = await self._faults.clear(request.method, request.cleared_by[:200])
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        return pb.ClearFaultResponse(fault=_message(found) if found else None)


def _fault(request: pb.SetFaultRequest, now_ms: int) -> CallFault:
    """What a request says, not yet checked."""
    abort = Abort(request.abort.code, request.abort.per_million)
    delay = Delay(_ms(request.delay.delay), request.delay.per_million)
    return CallFault(
        request.method,
        abort if request.HasField("abort") else None,
        delay if request.HasField("delay") else None,
        now_ms,
        now_ms + _ms(request.duration),
        request.set_by,
    )


def _ms(duration: Any) -> int:
    return int(duration.seconds * 1000 + duration.nanos // 1_000_000)


def _message(fault: CallFault) -> pb.Fault:
    message = pb.Fault(
        method=fault.method,
        end_time=to_timestamp(fault.end_ms),
        set_time=to_timestamp(fault.set_ms),
        set_by=fault.set_by,
    )
    if fault.abort is not None:
        message.abort.code = fault.abort.code
        message.abort.per_million = fault.abort.share
    if fault.delay is not None:
        message.delay.delay.CopyFrom(to_duration(fault.delay.delay_ms))
        message.delay.per_million = fault.delay.share
    return message
