"""The commands of `plait process`."""

from plait.cli._api import Api
from plait.cli._command import Exit
from plait.cli._output import duration
from plait.cli._scheduler import scheduler_channel
from plait.control.v1 import supervisor_service_pb2 as pb
from plait.control.v1 import supervisor_service_pb2_grpc as pb_grpc

_COLUMNS = ("NAME", "PID", "STATE", "FOR", "DEATHS", "WITH ATTEMPTS", "EXIT CODE", "SUSPECTS")


async def list_processes(api: Api) -> Exit:
    """From the scheduler."""
    async with scheduler_channel(api) as channel:
        stub = pb_grpc.SupervisorServiceStub(channel)
        answer = await stub.ListProcesses(pb.ListProcessesRequest(), timeout=api.timeout)
    rows = (
        (
            each.name,
            str(each.pid or ""),
            pb.ProcessState.Name(each.state).removeprefix("PROCESS_STATE_"),
            duration(each.age),
            str(each.deaths),
            str(each.deaths_with_attempts),
            str(each.exit_code) if each.deaths else "",
            " ".join(each.suspects),
        )
        for each in answer.processes
    )
    api.output.items("processes", answer.processes, _COLUMNS, rows)
    return Exit.OK
