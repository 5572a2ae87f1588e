"""Poison for workers in Go and Rust: a handler that exits, aborts, or eats memory until the limit
of its process. It is attempted exactly as often as its policy says, then is a dead letter, and what
else the same workers serve goes on. (Python's are in `poison`.)

`python -m tests.fault.ruins --rounds 6`
"""

import argparse
import asyncio
import contextlib
import functools
import tempfile
from collections import defaultdict
from pathlib import Path

import grpc

from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb
from tests.fault import books
from tests.fault.command import run
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import new_folder, supervised
from tests.fault.traffic import Traffic
from tests.support.mesh import Caller, Mesh

LANGUAGES = ("go", "rust")
HOWS = ("exit", "abort", "eat")
ATTEMPTS = 5
"""Of Fail, as echo.proto has it."""
WORKERS = 2
ENDS_S = 120.0
SETTLE_S = 120.0


async def campaign(rounds: int, folder: Path) -> Outcome:
    """`rounds` poisons in each language, of each kind by turns."""
    outcome = Outcome("ruins", ["I11", "I19"], "poison task")
    healthy = 0
    for language in LANGUAGES:
        healthy += await _one(outcome, language, rounds, new_folder(folder / language))
    outcome.notes = f"{', '.join(HOWS)} by turns, {rounds} in each of {' and '.join(LANGUAGES)}"
    outcome.figures |= {"healthy_tasks": healthy}
    return outcome.ended()


async def _one(outcome: Outcome, language: str, rounds: int, folder: Path) -> int:
    journal, ruins = folder / "journal.tsv", folder / "ruins.tsv"
    env = {"ECHO_JOURNAL": str(journal), "ECHO_RUIN": str(ruins)}
    history = History(journal)
    traffic = Traffic(language, window=32, history=history)
    async with Mesh(folder) as mesh, mesh.caller() as caller, contextlib.AsyncExitStack() as stack:
        start = functools.partial(mesh.start_worker, language, env=env)
        for _ in range(WORKERS):
            await stack.enter_async_context(supervised(start))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            for number in range(rounds):
                async with asyncio.timeout(ENDS_S):
                    await traffic.progress(20)
                    await _poison(outcome, caller, f"{language}: {HOWS[number % len(HOWS)]}")
                outcome.tried += 1
            traffic.stop()
            async with asyncio.timeout(SETTLE_S):
                await running
    judge(outcome, ruins.read_text(), rounds)
    books.audit(outcome, traffic, executions(journal), zombies=False)
    await history.check(outcome)
    return traffic.acknowledged


async def _poison(outcome: Outcome, caller: Caller, name: str) -> None:
    request = pb.FailRequest(message=name.split()[-1])
    task = await caller.plait.submit(caller.echo.Fail, request)
    try:
        await task.result()
        outcome.violated(f"{name}: {task.id} has a result")
    except grpc.aio.AioRpcError as error:
        code = error.code()
        outcome.check(code is grpc.StatusCode.UNAVAILABLE, f"{name}: {task.id} ended with {code}")
    ended = await caller.get(task.id)
    dead = ended.state == task_pb2.TASK_STATE_FAILED and ended.dead_letter
    outcome.check(dead, f"{name}: {task.id} is no dead letter but {ended.state}")
    outcome.check(ended.attempt == ATTEMPTS, f"{name}: {task.id} had {ended.attempt} attempts")


def judge(outcome: Outcome, ruins: str, tasks: int) -> None:
    """The handlers' own notes: each task was begun under each number once."""
    begun: defaultdict[str, list[int]] = defaultdict(list)
    for line in ruins.splitlines():
        _, task, _, attempt = line.split("\t")
        begun[task].append(int(attempt))
    for task, attempts in begun.items():
        wanted = list(range(1, ATTEMPTS + 1))
        outcome.check(attempts == wanted, f"{task} was begun as attempts {attempts}")
    outcome.check(len(begun) == tasks, f"{len(begun)} poisons of {tasks} were begun")


def main() -> None:
    parser = argparse.ArgumentParser(prog="ruins", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="plait-ruins-") as folder:
        run(campaign(rounds, Path(folder)))


if __name__ == "__main__":
    main()
