"""SIGSTOP and SIGCONT: workers past their lease, the broker, the scheduler; and completions that
come after the lease went to somebody else, all of which are refused.

`python -m tests.fault.pauses freeze --rounds 100`,
`python -m tests.fault.pauses late --tasks 100000`
"""

import argparse
import asyncio
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path

import grpc

from testing.v1 import echo_pb2 as pb
from tests.fault import books
from tests.fault.command import run
from tests.fault.history import ECHO, History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import attached_workers
from tests.fault.stubborn import Stubborn
from tests.fault.traffic import Traffic
from tests.support.mesh import LANGUAGES, Caller, Mesh
from tests.support.processes import Process
from tests.support.waiting import elapse, eventually

HEARTBEAT_S = 0.2
ENV = {"PLAIT_BROKER_HEARTBEAT_INTERVAL": "200ms", "PLAIT_BROKER_REATTACH_GRACE": "2s"}
LATE_ENV = {**ENV, "PLAIT_BROKER_HEARTBEAT_INTERVAL": "1s"}
"""A late worker must not be late with its first word, too."""
LOST_S = 60.0
"""Within this a silent worker must have lost its leases; 0.6 s on an idle machine."""
SETTLE_S = 120.0
BATCH = 2000

ALL = len(LANGUAGES)


async def freeze(rounds: int, folder: Path) -> Outcome:
    """Each round stops one process, waits until that is felt, and lets it go on."""
    outcome = Outcome("pauses", ["I1", "I2", "I3", "I4", "I18"], "SIGSTOP and SIGCONT")
    journal = folder / "journal.tsv"
    history = History(journal, zombies=True)
    traffic = Traffic("pauses", window=128, history=history)
    counts: Counter[str] = Counter()
    dice = random.Random(1)
    async with Mesh(folder, env=ENV) as mesh, mesh.caller() as caller:
        workers = [
            await mesh.start_worker(language, env={"ECHO_JOURNAL": str(journal)})
            for language in LANGUAGES
        ]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            for number in range(rounds):
                victim = ("worker", "worker", "worker", "broker", "scheduler")[number % 5]
                counts[victim] += 1
                async with asyncio.timeout(LOST_S * 2):
                    await traffic.progress(20)
                    await _pause(victim, mesh, caller, traffic, dice.choice(workers))
            traffic.stop()
            async with asyncio.timeout(SETTLE_S):
                await running
        await _completed_once(outcome, caller)
    lines = executions(journal)
    books.audit(outcome, traffic, lines, zombies=True)
    await history.check(outcome)
    outcome.tried = rounds
    outcome.notes = ", ".join(f"{name} {count}" for name, count in counts.items())
    outcome.figures |= {
        "tasks": traffic.acknowledged,
        "executed_again": len(lines) - len(traffic.entries),
    }
    return outcome.ended()


async def _pause(
    victim: str, mesh: Mesh, caller: Caller, traffic: Traffic, worker: Process
) -> None:
    if victim == "worker":
        # After a pause of the broker some are still on their way back.
        await eventually(lambda: attached_workers(caller), lambda count: count == ALL, LOST_S)
        worker.send(signal.SIGSTOP)
        try:
            await eventually(lambda: attached_workers(caller), lambda count: count < ALL, LOST_S)
            await traffic.progress(20)
        finally:
            worker.send(signal.SIGCONT)
        await eventually(lambda: attached_workers(caller), lambda count: count == ALL, LOST_S)
        return
    process = mesh.broker if victim == "broker" else mesh.scheduler
    assert process is not None
    process.send(signal.SIGSTOP)
    try:
        if victim == "broker":
            # Longer than the silence after which its workers take it for gone.
            await elapse(4 * HEARTBEAT_S)
        else:
            await traffic.progress(50)
    finally:
        process.send(signal.SIGCONT)


async def _completed_once(outcome: Outcome, caller: Caller) -> None:
    """Of the tasks that were run more than once, each was completed once."""
    again = await caller.list('queue = "echo.append" AND attempt > 1')
    for task in again[:200]:
        events = (await caller.get(task.id, full=True)).events
        count = [event.cause for event in events].count("COMPLETED")
        outcome.check(count == 1, f"{task.id} was completed {count} times")


async def late(tasks: int, folder: Path) -> Outcome:
    """A worker takes tasks, is silent until its leases are over, and completes them all the same,
    while and after another worker does them."""
    outcome = Outcome("late-completions", ["I3"], "completion under an old token")
    history = History(folder / "journal.tsv", zombies=True)
    async with Mesh(folder, env=LATE_ENV) as mesh, mesh.caller() as caller:
        await (await mesh.start_worker("rust")).terminate()
        done = 0
        while done < tasks:
            count = min(BATCH, tasks - done)
            done += await _one_batch(outcome, history, mesh, caller, range(done, done + count))
    await history.check(outcome)
    outcome.tried = done
    outcome.notes = "half of them before the second attempt ended, half after it"
    return outcome.ended()


async def _one_batch(
    outcome: Outcome, history: History, mesh: Mesh, caller: Caller, numbers: range
) -> int:
    count = len(numbers)
    requests = [pb.EchoRequest(payload=f"{number}".encode()) for number in numbers]
    asked = [history.asked(ECHO, "late", place=(number + 1, 0)) for number in numbers]
    before_end = (numbers[0] // BATCH) % 2 == 0
    async with asyncio.timeout(SETTLE_S), grpc.aio.insecure_channel(mesh.address) as channel:
        stub = Stubborn(channel, "stubborn", ["/testing.v1.EchoService/Echo"])
        await stub.attach(count)
        handles = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
        for each, task in zip(asked, handles, strict=True):
            history.acknowledged(each, task.id)
        await stub.take(count)
        for number, token in stub.held:
            lease = {"task": f"t{number:016x}", "token": token}
            history.tell("start", **lease, attempt=1, worker="stubborn")
        await stub.silence()
        if before_end:
            await _refused(outcome, stub)
        worker = await mesh.start_worker("rust")
        answers = await asyncio.gather(*(task.result() for task in handles))
        for task in handles:
            history.ended(task.id, "SUCCEEDED")
        for request, answer in zip(requests, answers, strict=True):
            outcome.check(answer.payload == request.payload, f"{request} answered {answer}")
        if not before_end:
            await _refused(outcome, stub)
        await worker.terminate()
    return count


async def _refused(outcome: Outcome, stub: Stubborn) -> None:
    while True:
        try:
            await stub.attach(1)
            sent, refused = await stub.complete(b"from the grave")
            break
        except grpc.aio.AioRpcError:
            # It was too late even for this, and its stream is cut; the caller bounds the time.
            continue
    await stub.end()
    outcome.check(len(refused) == sent, f"{sent - len(refused)} late completions were taken")
    for reason in set(refused) - {"LEASE_LOST"}:
        outcome.violated(f"refused with {reason}, not LEASE_LOST")


def main() -> None:
    parser = argparse.ArgumentParser(prog="pauses", description=__doc__)
    parser.add_argument("what", choices=["freeze", "late"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=100_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-pauses-") as folder:
        if chosen.what == "freeze":
            run(freeze(chosen.rounds, Path(folder)))
        else:
            run(late(chosen.tasks, Path(folder)))


if __name__ == "__main__":
    main()
