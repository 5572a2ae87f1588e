"""The breaker service: which methods rest."""

from collections.abc import Callable

import grpc

from plait.control.v1 import breaker_service_pb2 as pb
from plait.control.v1 import breaker_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.breaker import MethodBreaker, State
from plait_scheduler.domain.gates import Gates
from plait_scheduler.servicers.doors import Doors

# As the API tells them.
STATES = {
    State.CLOSED: pb.BREAKER_STATE_CLOSED,
    State.OPEN: pb.BREAKER_STATE_OPEN,
    State.HALF_OPEN: pb.BREAKER_STATE_HALF_OPEN,
}


class BreakerServicer(pb_grpc.BreakerServiceServicer):
    """Answers from what the loop knows."""

    def __init__(self, gates: Gates, doors: Doors, monotonic_ms: Callable[[], int]) -> None:
        self._gates = gates
        self._monotonic_ms = monotonic_ms
        self._doors = doors

    async def ListBreakers(
        self,
        request: pb.ListBreakersRequest,
        context: grpc.aio.ServicerContext[pb.ListBreakersRequest, pb.ListBreakersResponse],
    ) -> pb.ListBreakersResponse:
        """By method."""
        await self._doors.check(context)
        now_ms = self._monotonic_ms()
        found = sorted(self._gates.breakers().items())
        return pb.ListBreakersResponse(
            breakers=[_message(method, breaker, now_ms) for method, breaker in found]
        )


def _message(method: str, breaker: MethodBreaker, now_ms: int) -> pb.MethodBreaker:
    left_ms = breaker.left_open_ms(now_ms)
    return pb.MethodBreaker(
        method=method,
        state=STATES[breaker.state],
        age=to_duration(max(0, now_ms - breaker.since_ms)),
        open_for=to_duration(left_ms) if left_ms else None,
        openings=breaker.openings,
    )
