"""Schedules: runs by time, each once, whoever dies meanwhile."""

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from plait.v1 import task_pb2
from testing.v1 import echo_pb2
from tests.support.mesh import Caller, Mesh
from tests.support.waiting import eventually

INSPECT = "testing.v1.EchoService/Inspect"
RUN = "tidy.v1.Tidy/Run"
SLEEP = "testing.v1.EchoService/Sleep"
PATIENCE_S = 40.0
CONTRACT = """
syntax = "proto3";
package tidy.v1;
import "plait/v1/options.proto";
message RunRequest { string account = 1; }
message RunResponse {}
service Tidy {
  rpc Run(RunRequest) returns (RunResponse) {
    option (plait.v1.task) = { %s };
  }
}
"""


async def plait(mesh: Mesh, *arguments: str, code: int = 0) -> str:
    """What the command line says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", *arguments, "--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == code, stderr.decode()
    return stdout.decode() if code == 0 else stderr.decode()


async def shown(mesh: Mesh, name: str) -> dict[str, Any]:
    """A schedule as JSON."""
    found: dict[str, Any] = json.loads(await plait(mesh, "schedule", "show", name, "-o", "json"))
    return found


async def shows(mesh: Mesh, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """How it is with a schedule, once this holds."""
    status: dict[str, Any] = (
        await eventually(
            lambda: shown(mesh, name), lambda found: holds(found["status"]), PATIENCE_S
        )
    )["status"]
    return status


async def runs(caller: Caller, name: str) -> list[task_pb2.Task]:
    """The tasks of a schedule, in the order of their submission."""
    found = [
        task
        for task in await caller.list("")
        if task.idempotency_key.startswith(f"schedule/{name}/")
    ]
    return sorted(found, key=lambda task: task.id)


def fire_time(task: task_pb2.Task) -> datetime:
    """The time that a run stands for."""
    return datetime.fromisoformat(task.idempotency_key.rpartition("/")[2])


def consecutive(tasks: list[task_pb2.Task], distance: timedelta) -> bool:
    """Whether no time between the first and the last is missing, or there twice."""
    times = sorted(map(fire_time, tasks))
    return times == [times[0] + distance * n for n in range(len(times))]


async def at_least(caller: Caller, name: str, count: int) -> list[task_pb2.Task]:
    """Its tasks, once there are so many."""
    return await eventually(
        lambda: runs(caller, name), lambda tasks: len(tasks) >= count, PATIENCE_S
    )


async def known(mesh: Mesh, caller: Caller) -> None:
    """Makes the contract known; nobody serves it then, so tasks wait."""
    worker = await mesh.start_worker("python")
    await caller.echo.Inspect(echo_pb2.InspectRequest(), timeout=20)
    assert await worker.terminate() == 0


async def push(mesh: Mesh, option: str, code: int = 0) -> str:
    """Puts a contract in force whose one method has this option."""
    proto = mesh.folder / "tidy.proto"
    proto.write_text(CONTRACT % option)
    return await plait(mesh, "contract", "push", str(proto), "-I", str(mesh.folder), code=code)


async def test_a_schedule_runs_a_task_at_each_of_its_times(fresh: Mesh):
    await fresh.start_worker("python")
    async with fresh.caller() as caller:
        when = ("--every", "1s", "--overlap", "allow", "--missed", "all")
        create = ("schedule", "create", "often", INSPECT, *when)
        assert "often created; next: " in await plait(fresh, *create)
        found = await at_least(caller, "often", 3)
        assert consecutive(found, timedelta(seconds=1))
        state = await shown(fresh, "often")
        assert state["schedule"]["method"] == f"/{INSPECT}"
        assert int(state["status"]["runCount"]) >= 3
        # The handler is told what it runs for.
        task = caller.plait.task(caller.echo.Inspect, found[0].id)
        seen = (await task.result()).metadata
        assert seen["schedule-name"] == "often"
        assert seen["schedule-time"] == found[0].idempotency_key.rpartition("/")[2]
        assert "exists" not in await plait(fresh, *create, "--replace")
        await plait(fresh, *create, code=6)
        await plait(fresh, "schedule", "delete", "often")
        assert json.loads(await plait(fresh, "schedule", "list", "-o", "json")) == {"schedules": []}
        await plait(fresh, "schedule", "show", "often", code=3)


async def test_no_time_is_missed_or_doubled_when_schedulers_die(fresh: Mesh):
    distance = timedelta(milliseconds=300)
    async with fresh.caller() as caller:
        await known(fresh, caller)
        await plait(
            *(fresh, "schedule", "create", "often", INSPECT, "--every", "300ms"),
            *("--overlap", "allow", "--missed", "all"),
        )
        await at_least(caller, "often", 3)
        for killed in range(2):
            assert fresh.scheduler is not None
            await fresh.scheduler.kill()
            before = len(await runs(caller, "often"))
            await fresh.start_scheduler()
            await at_least(caller, "often", before + 4 * (killed + 1))
        # A second one takes over from one that lives, and both decide for a moment.
        first = fresh.scheduler
        await fresh.start_scheduler()
        await at_least(caller, "often", len(await runs(caller, "often")) + 4)
        assert fresh.scheduler is not first
        found = await runs(caller, "often")
        assert consecutive(found, distance)
        # A broker that dies takes nothing along, either.
        assert fresh.broker is not None
        await fresh.broker.kill()
        await fresh.start_broker()
        await at_least(caller, "often", len(found) + 4)
        assert consecutive(await runs(caller, "often"), distance)


async def test_people_hold_schedules_start_runs_and_make_up_for_some(fresh: Mesh):
    async with fresh.caller() as caller:
        await known(fresh, caller)
        await plait(
            *(fresh, "schedule", "create", "nightly", SLEEP, '{"duration": "0.1s"}'),
            *("--cron", "30 2 * * *", "--timezone", "Europe/Berlin"),
        )
        lines = (await plait(fresh, "schedule", "next", "nightly", "-n", "3")).split()
        assert [datetime.fromisoformat(line).minute for line in lines] == [30, 30, 30]
        await plait(fresh, "schedule", "pause", "nightly", "--note", "on holiday")
        state = await shown(fresh, "nightly")
        assert (state["status"]["paused"], state["status"]["note"]) == (True, "on holiday")
        assert "nextTimes" not in state["status"]
        assert "on holiday" in await plait(fresh, "schedule", "show", "nightly")
        # A trigger runs all the same, and equal ones run once.
        again = ("schedule", "trigger", "nightly", "--request-id", "r1")
        task = (await plait(fresh, *again)).strip()
        assert (await plait(fresh, *again)).strip() == task
        assert (await caller.get(task)).idempotency_key == "schedule/nightly/trigger/r1"
        between = ("--from", "2026-10-24T00:00:00Z", "--to", "2026-10-26T12:00:00Z")
        past = ("schedule", "backfill", "nightly", *between)
        assert await plait(fresh, *past, "--dry-run") == "3 runs\n"
        assert await plait(fresh, *past) == "3 runs\n"
        # One after the other, so none begins while the trigger's task waits for a worker.
        assert len(await runs(caller, "nightly")) == 1
        await fresh.start_worker("python")
        found = (await at_least(caller, "nightly", 4))[1:]
        # The clocks went back on the 25th.
        assert [fire_time(task).strftime("%d %H:%M") for task in found] == [
            *("24 00:30", "25 00:30", "26 01:30")
        ]
        # What has run is found again, and does not run twice.
        assert await plait(fresh, *past) == "3 runs\n"
        await shows(fresh, "nightly", lambda status: int(status["runCount"]) == 7)
        assert len(await runs(caller, "nightly")) == 4
        assert "next: " in await plait(fresh, "schedule", "resume", "nightly")


async def test_a_run_is_left_out_or_waits_while_the_one_before_goes_on(fresh: Mesh):
    async with fresh.caller() as caller:
        await known(fresh, caller)
        for overlap in ("skip", "buffer-one", "cancel-previous"):
            create = ("schedule", "create", overlap, INSPECT, "--every", "300ms")
            await plait(fresh, *create, "--overlap", overlap)
        for overlap in ("skip", "buffer-one"):
            status = await shows(fresh, overlap, lambda it: int(it.get("skippedCount", 0)) >= 3)
            assert status.get("buffered", False) == (overlap == "buffer-one")
            assert len(await runs(caller, overlap)) == 1
        replaced = await at_least(caller, "cancel-previous", 4)
        assert {task.state for task in replaced[:-1]} == {task_pb2.TASK_STATE_CANCELLED}
        await fresh.start_worker("python")
        for overlap in ("skip", "buffer-one"):
            await at_least(caller, overlap, 3)


async def test_a_contract_declares_schedules_that_go_with_it(fresh: Mesh):
    async def declared() -> dict[str, Any]:
        answer = json.loads(await plait(fresh, "schedule", "list", "-o", "json"))
        return {each["schedule"]["name"]: each for each in answer["schedules"]}

    async with fresh.caller() as caller:
        refused = await push(fresh, 'schedule: {cron: "61 * * * *"}', code=6)
        assert "tidy.proto: tidy.v1.Tidy.Run: task.schedule.cron" in refused
        await push(fresh, "schedule: {every: {nanos: 300000000} overlap: OVERLAP_POLICY_ALLOW}")
        found = await at_least(caller, "tidy.v1.Tidy.Run", 3)
        assert {task.method for task in found} == {"/tidy.v1.Tidy/Run"}
        assert (await declared())["tidy.v1.Tidy.Run"]["status"]["managed"]
        await plait(fresh, "schedule", "delete", "tidy.v1.Tidy.Run", code=6)
        await push(fresh, 'schedule: {cron: "@daily" timezone: "Asia/Tokyo"}')
        changed = await eventually(
            declared, lambda found: found["tidy.v1.Tidy.Run"]["schedule"]["cron"], PATIENCE_S
        )
        assert changed["tidy.v1.Tidy.Run"]["status"]["nextTimes"][0].endswith("T15:00:00Z")
        assert int(changed["tidy.v1.Tidy.Run"]["status"]["runCount"]) >= 3
        await push(fresh, "priority: 3")
        await eventually(declared, lambda found: not found, PATIENCE_S)


async def test_a_task_waits_for_the_time_that_people_say(fresh: Mesh):
    async with fresh.caller() as caller:
        await known(fresh, caller)
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        task = await caller.get(
            (await plait(fresh, "submit", INSPECT, "--at", at.isoformat())).strip()
        )
        assert task.state == task_pb2.TASK_STATE_SCHEDULED
        start = task.start_time.ToDatetime(UTC)
        assert at <= start < at + timedelta(seconds=20)
        past = await plait(fresh, "submit", INSPECT, "--at", "2026-01-01T00:00:00+01:00")
        assert (await caller.get(past.strip())).state == task_pb2.TASK_STATE_READY
        await plait(fresh, "submit", INSPECT, "--at", "2026-01-01T00:00:00", code=2)
        await plait(fresh, "submit", INSPECT, "--at", at.isoformat(), "--delay", "1", code=2)


async def test_what_cannot_hold_is_refused(fresh: Mesh):
    async with fresh.caller() as caller:
        await known(fresh, caller)
    for arguments, field in (
        (("x", INSPECT, "--cron", "61 * * * *"), "cron"),
        (("x", INSPECT, "--cron", "@daily", "--timezone", "Mars"), "timezone"),
        (("x", INSPECT, "--every", "soon"), "span"),
        (("x", INSPECT, "--every", "1s", "--start", "tomorrow"), "time"),
        (("a/b", INSPECT, "--every", "1s"), "name"),
        (("x", INSPECT), "cron"),
    ):
        assert field in await plait(fresh, "schedule", "create", *arguments, code=2)
    await plait(fresh, "schedule", "create", "x", "no.Such/Method", "--every", "1s", code=3)
    await push(fresh, 'ordering_key: "account"')
    refused = await plait(fresh, "schedule", "create", "x", RUN, "--every", "1s", code=2)
    assert "needs an ordering key" in refused
    await plait(fresh, "schedule", "trigger", "x", code=3)
    dry = await plait(fresh, "schedule", "create", "x", INSPECT, "--every", "1h", "--dry-run")
    assert dry.startswith("x would be created; next: ")
    await plait(fresh, "schedule", "show", "x", code=3)
