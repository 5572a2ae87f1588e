"""The supervisor service: local processes, for people."""

from collections.abc import Callable, Sequence

import grpc

from plait.control.v1 import supervisor_service_pb2 as pb
from plait.control.v1 import supervisor_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.processes import LocalProcess, ProcessState
from plait_scheduler.servicers.doors import Doors

_STATES = {
    ProcessState.RUNNING: pb.PROCESS_STATE_RUNNING,
    ProcessState.RESTARTING: pb.PROCESS_STATE_RESTARTING,
    ProcessState.CRASH_LOOP: pb.PROCESS_STATE_CRASH_LOOP,
    ProcessState.STOPPING: pb.PROCESS_STATE_STOPPING,
}


class SupervisorServicer(pb_grpc.SupervisorServiceServicer):
    """Answers from what the supervisor knows."""

    def __init__(self, processes: Callable[[], Sequence[LocalProcess]], doors: Doors) -> None:
        self._processes = processes
        self._doors = doors

    async def ListProcesses(
        self,
        request: pb.ListProcessesRequest,
        context: grpc.aio.ServicerContext[pb.ListProcessesRequest, pb.ListProcessesResponse],
    ) -> pb.ListProcessesResponse:
        """By name."""
        await self._doors.check(context)
        return pb.ListProcessesResponse(processes=map(_message, self._processes()))


def _message(process: LocalProcess) -> pb.LocalProcess:
    return pb.LocalProcess(
        name=process.name,
        worker=process.worker,
        pid=process.pid,
        state=_STATES[process.state],
        age=to_duration(process.age_ms),
        deaths=process.deaths,
        deaths_with_attempts=process.deaths_with_attempts,
        exit_code=process.exit_code,
        suspects=process.suspects,
    )
