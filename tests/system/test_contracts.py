"""A contract changes while tasks are in flight: what they mind is refused until they are done."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from google.rpc import code_pb2

from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.requests import entry, nap
from tests.support.waiting import eventually, reaches

SERVICE = "testing.v1.EchoService"
QUEUE = "echo.append"
TASKS = 10_000
SOURCE = (ROOT / "proto/testing/v1/echo.proto").read_text()
OPTION = 'ordering_key: "account"'
APPEND = SOURCE[SOURCE.index("  rpc Append") : SOURCE.index("  // Never starts twice.")]
# Echo, Fail and Sleep.
THREE = SOURCE[SOURCE.index("  rpc Echo") : SOURCE.index("  // A flow: asks for")]
PATIENCE_S = 50.0


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    def affected(self, kind: str, method: str = "Append") -> dict[str, Any]:
        """The work that a change of this kind has to wait for."""
        (service,) = json.loads(self.stdout)["services"]
        (change,) = (
            each
            for each in service["changes"]
            if (each["kind"], each["subject"]) == (kind, f"{SERVICE}.{method}")
        )
        assert change["effect"] == "CHANGE_EFFECT_NEEDS_DRAIN"
        assert change["advice"]
        work: dict[str, Any] = change["work"]
        return work


async def contract(mesh: Mesh, *arguments: str) -> Said:
    """Runs `plait contract`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "contract", *arguments),
        *("--address", mesh.address, "--timeout", str(PATIENCE_S)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=mesh.folder,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, stdout.decode(), stderr.decode())


def edited(mesh: Mesh, name: str, old: str, new: str) -> tuple[str, ...]:
    """The contract after an edit, in a folder of this name, as arguments."""
    assert old in SOURCE
    path = mesh.folder / name / "testing/v1/echo.proto"
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE.replace(old, new))
    return str(path), "-I", str(mesh.folder / name), "--service", SERVICE


async def fill(caller: Caller) -> list[str]:
    """Ten thousand tasks that wait, each in a line of its own; their ids."""
    await caller.tasks.PauseQueue(api.PauseQueueRequest(name=QUEUE, reason="a contract changes"))
    requests = (entry(f"a{number}", 1) for number in range(TASKS))
    return [task.id async for task in caller.plait.submit_many(caller.echo.Append, requests)]


async def drain(caller: Caller) -> None:
    """Lets them run, and waits for the last."""
    await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name=QUEUE))

    async def counts() -> dict[int, int]:
        shown = await caller.tasks.GetQueue(api.GetQueueRequest(name=QUEUE))
        return {each.state: each.count for each in shown.queue.counts}

    done = {task_pb2.TASK_STATE_SUCCEEDED: TASKS}
    await eventually(counts, lambda found: found == done, PATIENCE_S)


@pytest.mark.timeout(180)
async def test_what_ten_thousand_waiting_tasks_mind_is_refused_until_they_are_done(fresh: Mesh):
    removed = edited(fresh, "removed", APPEND, "")
    reordered = edited(fresh, "reordered", OPTION, 'ordering_key: "entry.id"')
    short = "deadline: {nanos: 10000000} attempt_timeout: {nanos: 10000000}"
    hurried = edited(fresh, "hurried", OPTION, f"{OPTION} {short}")
    # It has announced the contract, and goes on whatever comes after.
    await fresh.start_worker("python")
    async with fresh.caller() as caller:
        ids = await fill(caller)
        edits = (removed, reordered, hurried)
        checks = (contract(fresh, "check", *files, "-o", "json") for files in edits)
        checked = await asyncio.gather(*checks)
        assert [said.code for said in checked] == [6, 6, 6]
        kinds = ("METHOD_REMOVED", "KEY_PATH_CHANGED", "DEADLINE_SHORTENED")
        for said, kind in zip(checked, kinds, strict=True):
            work = said.affected(kind)
            (count,) = work["counts"]
            # A number of 64 bits is text in JSON.
            assert count == {"state": "TASK_STATE_PARKED", "count": str(TASKS)}
            assert work["firstTasks"] == ids[:10]
            assert "more" not in work

        refused = await contract(fresh, "push", *removed)
        assert refused.code == 6
        for part in (f"{SERVICE}.Append", f"{TASKS} tasks", ids[0], "--allow"):
            assert part in refused.stderr
        allowed = await contract(fresh, "push", *reordered, "--allow", "accounts are closed")
        assert allowed.code == 0, allowed.stderr
        logged = await contract(fresh, "log", SERVICE, "-o", "json")
        newest, oldest = json.loads(logged.stdout)["decisions"]
        assert newest["reason"] == "accounts are closed"
        assert "@" in newest["allowedBy"]
        assert f"{TASKS} tasks" in newest["overridden"][0]
        assert "reason" not in oldest

        await drain(caller)
        accepted = await contract(fresh, "push", *removed)
        assert accepted.code == 0, accepted.stderr
        assert "Append" not in accepted.stdout
        shown = await contract(fresh, "show", SERVICE)
        assert "version 3" in shown.stdout


async def test_every_kind_of_work_is_found(fresh: Mesh):
    without = edited(fresh, "without", THREE, "")
    await fresh.start_worker("python")
    async with fresh.caller() as caller:
        dead = await caller.plait.submit(
            caller.echo.Fail, pb.FailRequest(code=code_pb2.INVALID_ARGUMENT, failures=9)
        )
        await reaches(dead, "FAILED")
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo.fail"))
        delayed = await caller.plait.submit(caller.echo.Sleep, nap(0), delay=600)
        flow = await caller.plait.submit(caller.echo.Flow, pb.FlowRequest(width=2, depth=1))
        # Two children are done and on record; the third waits, and the flow with it.
        children = await eventually(
            lambda: caller.list(f'parent = "{flow.id}"'), lambda found: len(found) == 3
        )
        echoed = sorted(each.id for each in children if each.method.endswith("/Echo"))
        (waits,) = (each.id for each in children if each.method.endswith("/Fail"))

        checked = await contract(fresh, "check", *without, "-o", "json")
        assert checked.code == 6, checked.stderr
        recorded = checked.affected("METHOD_REMOVED", "Echo")
        assert (recorded["recordedChildren"], recorded["firstTasks"]) == ("2", echoed)
        failing = checked.affected("METHOD_REMOVED", "Fail")
        counts = {each["state"]: each["count"] for each in failing["counts"]}
        assert counts == {"TASK_STATE_FAILED": "1", "TASK_STATE_PARKED": "1"}
        assert failing["firstTasks"] == [dead.id, waits]
        sleeping = checked.affected("METHOD_REMOVED", "Sleep")
        assert sleeping["counts"] == [{"state": "TASK_STATE_SCHEDULED", "count": "1"}]
        assert sleeping["firstTasks"] == [delayed.id]

        # The flow ends, and with it the need of what it has on record.
        await flow.cancel()
        again = await contract(fresh, "check", *without, "-o", "json")
        (service,) = json.loads(again.stdout)["services"]
        harmless = {each["subject"] for each in service["changes"] if "HARMLESS" in each["effect"]}
        assert f"{SERVICE}.Echo" in harmless
