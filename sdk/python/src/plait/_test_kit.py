"""The clock of a broker that was started for tests, and attempts that are made to fail."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.rpc import status_pb2

from plait import _wire
from plait._flags import SHARE_MAX
from plait._task import Task
from plait.testkit.v1 import test_kit_service_pb2 as pb
from plait.testkit.v1 import test_kit_service_pb2_grpc as rpc
from plait.v1 import flag_service_pb2, flag_service_pb2_grpc

if TYPE_CHECKING:
    # Made by a mesh, which is all that a user needs to name.
    from plait.testkit.v1.test_kit_service_pb2_grpc import TestKitServiceAsyncStub

_PATIENCE_S: Final = 10.0


class TestKit:
    """Moves the broker's clock ahead and lets attempts fail. Each call dials anew, so that it may
    be used in any event loop.

    Delays, backoffs, deadlines and retention go by the broker's clock; what a handler itself waits
    for does not. Errors are those of gRPC.
    """

    # Not a class of tests, whatever its name begins with.
    __test__ = False

    def __init__(self, address: str) -> None:
        """Made by `Mesh.kit`.

        address: of a broker that runs with `--test-kit`.
        """
        self._address = address

    async def now(self) -> datetime:
        """The broker's time."""
        async with self._stub() as stub:
            answer = await stub.GetClock(pb.GetClockRequest())
        return answer.time.ToDatetime(UTC)

    async def advance(
        self,
        by: float | timedelta = 0.0,
        *,
        regardless: bool = False,
        patience: float = _PATIENCE_S,
    ) -> datetime:
        """Moves the clock ahead, from one thing that is due to the next, and lets the workers
        finish what each begins. Returns the time it is then.

        by: seconds; 0 waits for what is due now.
        regardless: moves on although attempts run, or wait for a worker.
        patience: seconds that the workers may take, in real time, for what is due at one instant.
        Raises FAILED_PRECONDITION where that is not enough, and says what they do.
        """
        wanted = pb.AdvanceClockRequest(regardless=regardless)
        wanted.by.FromTimedelta(_span(by))
        return await self._advance(wanted, patience)

    async def finish(self, task: Task[Any] | str, *, patience: float = _PATIENCE_S) -> datetime:
        """Moves the clock ahead until this task is final. Returns the time it is then.

        task: it, or its id.
        patience: as for `advance`. Raises FAILED_PRECONDITION, too, where nothing is due any more.
        """
        name = task if isinstance(task, str) else task.id
        return await self._advance(pb.AdvanceClockRequest(finished=name), patience)

    async def fail(
        self,
        method: str,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        message: str = "the test lets it fail",
        *,
        after: bool = False,
        attempts: Sequence[int] = (1,),
        times: int = 0,
    ) -> None:
        """Lets attempts of a method fail. Of several faults that fit, the newest strikes.

        method: "package.Service/Method".
        after: runs the handler, and throws its answer away; default: the handler is not run.
        attempts: numbers of a task's attempts, from 1; empty: all.
        times: how often; 0: as often as it fits.
        """
        number, _ = code.value
        status = status_pb2.Status(code=number, message=message)
        fault = pb.Fault(fail_after=status) if after else pb.Fault(fail_before=status)
        await self._add(fault, method, attempts, times)

    async def drop_stream(
        self, method: str, *, attempts: Sequence[int] = (1,), times: int = 0
    ) -> None:
        """Breaks the worker's stream as soon as it has such an attempt; otherwise as `fail`."""
        await self._add(pb.Fault(drop_stream=pb.DropStream()), method, attempts, times)

    async def expire_lease(
        self, method: str, *, attempts: Sequence[int] = (1,), times: int = 0
    ) -> None:
        """Ends the lease of such an attempt as soon as the worker has it: the handler is told to
        stop, and what it still answers is refused; otherwise as `fail`."""
        await self._add(pb.Fault(expire_lease=pb.ExpireLease()), method, attempts, times)

    async def struck(self) -> list[int]:
        """How often each fault struck, in the order in which they were asked for."""
        async with self._stub() as stub:
            answer = await stub.ListFaults(pb.ListFaultsRequest())
        return [each.struck for each in answer.faults]

    async def clear(self) -> None:
        """Forgets all faults."""
        async with self._stub() as stub:
            await stub.ClearFaults(pb.ClearFaultsRequest())

    async def set_flag(self, name: str, on: bool) -> None:
        """Sets a feature flag, on or off for everybody. Handlers of tasks that are submitted after
        it see it."""
        rule = flag_service_pb2.FlagRule(name=name, share=SHARE_MAX if on else 0)
        wanted = flag_service_pb2.SetFlagRequest(flag=flag_service_pb2.Flag(rule=rule))
        async with _wire.open_channel(self._address) as channel:
            await flag_service_pb2_grpc.FlagServiceStub(channel).SetFlag(wanted)

    async def _advance(self, wanted: pb.AdvanceClockRequest, patience: float) -> datetime:
        wanted.patience.FromTimedelta(_span(patience))
        async with self._stub() as stub:
            answer = await stub.AdvanceClock(wanted)
        return answer.time.ToDatetime(UTC)

    async def _add(self, fault: pb.Fault, method: str, attempts: Sequence[int], times: int) -> None:
        fault.method = f"/{method.removeprefix('/')}"
        fault.attempts.extend(attempts)
        fault.times = times
        async with self._stub() as stub:
            await stub.AddFault(pb.AddFaultRequest(fault=fault))

    @contextlib.asynccontextmanager
    async def _stub(self) -> "AsyncIterator[TestKitServiceAsyncStub]":
        async with _wire.open_channel(self._address) as channel:
            yield rpc.TestKitServiceStub(channel)


def _span(seconds: float | timedelta) -> timedelta:
    return seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
