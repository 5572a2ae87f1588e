"""Rollouts of direct calls with real clients: exact shares, back by itself when calls fail, and no
call lost while shares change.
"""

import asyncio
import collections
import contextlib
import json
import math
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from testing.v1 import echo_pb2, echo_pb2_grpc
from tests.support.mesh import Mesh
from tests.support.processes import Process
from tests.support.waiting import eventually
from tests.system.direct import ECHO, WAIT_S, answered_by, channel, direct, names, worker
from tests.system.test_direct_calls import plain_call, steady_go
from tests.system.test_rollouts import rollout

# Callers leave other processes little of the machine.
pytestmark = pytest.mark.timeout(180)
# Calls of each client; a share is within so many standard deviations.
CALLS, SIGMAS = 1_000, 5
FAILED = "INTERNAL: as told"


@pytest_asyncio.fixture(loop_scope="session")
async def watched(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh whose scheduler looks often."""
    env = {"PLAIT_SCHEDULER_FIGURES_INTERVAL_MS": "100"}
    async with Mesh(tmp_path, env=env) as running:
        yield running


async def call(stub: Any, answers: "collections.Counter[str]") -> None:
    """One call, counted by who answered; a failure as its code and text."""
    try:
        answer = await stub.Echo(echo_pb2.EchoRequest(), timeout=WAIT_S)
        answers[answer.payload.decode()] += 1
    except grpc.aio.AioRpcError as error:
        answers[f"{error.code().name}: {error.details()}"] += 1


@contextlib.asynccontextmanager
async def steady(stub: Any) -> AsyncIterator["collections.Counter[str]"]:
    """Calls without a pause, four at a time, until the block ends; who answered."""
    answers: collections.Counter[str] = collections.Counter()
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            await call(stub, answers)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(go_on())
        try:
            yield answers
        finally:
            over.set()


async def ended(caller: Process) -> dict[str, int]:
    """Ends a program that calls; what it was answered."""
    assert await caller.terminate() == 0
    (line,) = [each for each in caller.tail().splitlines() if '"done"' in each]
    found: dict[str, int] = json.loads(line)["answers"]
    return found


async def shown(mesh: Mesh) -> str:
    """`plait rollout get`, for people."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "rollout", "get", ECHO, "--address", mesh.address),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    return stdout.decode()


async def test_a_version_whose_direct_calls_fail_is_rolled_back(watched: Mesh):
    async with (
        worker(watched, "old", "1"),
        worker(watched, "new", "2") as new,
        watched.caller() as caller,
        channel(watched) as opened,
    ):
        plain: Any = echo_pb2_grpc.EchoServiceStub(opened)
        await answered_by(plain, "old", "new")
        await rollout(watched, "start", ECHO, "--to", "2", "--percent", "20")
        new.code = grpc.StatusCode.INTERNAL
        from_go = [await steady_go(watched), await steady_go(watched, "-direct")]
        async with steady(plain) as of_plain, steady(direct(caller)) as of_sdk:
            found = await eventually(
                lambda: rollout(watched, "get", ECHO),
                lambda each: each["state"] != "ROLLOUT_STATE_RUNNING",
                WAIT_S,
            )
        assert found["state"] == "ROLLOUT_STATE_ROLLED_BACK"
        assert found["reason"].startswith("direct calls: ")
        assert "attempts failed, of other versions 0 of " in found["reason"]
        assert int(found["others"]["calls"]) >= 50
        assert "failedCalls" not in found["others"]
        # There were no tasks.
        assert "attempts" not in found["others"]
        text = await shown(watched)
        assert f"  why       {found['reason']}" in text
        assert re.search(r"  others    .* 0 of [0-9]+ direct calls failed", text)
        # Everybody met the new version, and the others did not fail.
        for answers in (of_plain, of_sdk, *[await ended(each) for each in from_go]):
            assert {each.casefold() for each in answers} == {"old", FAILED.casefold()}, answers
        # Nobody fails any more, also who was there before.
        await answered_by(plain, "old")
        await answered_by(direct(caller), "old")
        for how in ((), ("-direct",)):
            assert await plain_call(watched, "go", 100, *how) == {"old": 100}


def within(answers: dict[str, int], share: float) -> None:
    """The new version had this share of the calls, and no call failed."""
    assert answers.keys() == {"old", "new"}, answers
    assert sum(answers.values()) == CALLS
    sigma = math.sqrt(share * (1 - share) * CALLS)
    assert abs(answers["new"] - share * CALLS) < SIGMAS * sigma, answers


async def test_real_clients_divide_their_calls_and_lose_none(watched: Mesh):
    async with (
        worker(watched, "old", "1"),
        worker(watched, "new", "2"),
        watched.caller() as caller,
        channel(watched) as opened,
    ):
        stubs: list[Any] = [echo_pb2_grpc.EchoServiceStub(opened), direct(caller)]
        await answered_by(stubs[0], "old", "new")

        async def by_all(*wanted: str, count: int = 100) -> list[dict[str, int]]:
            """Who answers the clients of both languages, without an SDK and with it, once those are
            called who are to be."""
            for stub in stubs:
                await answered_by(stub, *wanted)
            from_python = [await names(stub, count) for stub in stubs]
            from_go = [await plain_call(watched, "go", count, *how) for how in ((), ("-direct",))]
            return [*from_python, *from_go]

        await rollout(watched, "start", ECHO, "--to", "2")
        assert await by_all("old") == [{"old": 100}] * 4
        await rollout(watched, "set", ECHO, "--percent", "20")
        for answers in await by_all("old", "new", count=CALLS):
            within(answers, 0.2)
        from_go = [await steady_go(watched), await steady_go(watched, "-direct")]
        async with steady(stubs[0]) as of_plain, steady(stubs[1]) as of_sdk:
            await rollout(watched, "promote", ECHO)
            assert await by_all("new") == [{"new": 100}] * 4
            await rollout(watched, "abort", ECHO)
            assert await by_all("old") == [{"old": 100}] * 4
        for answers in (of_plain, of_sdk, *[await ended(each) for each in from_go]):
            assert answers.keys() == {"old", "new"}, answers
