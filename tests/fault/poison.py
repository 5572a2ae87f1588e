"""Tasks that ruin their worker, and peers that do not do their part: a handler that aborts its
process, never returns, or eats all memory; a worker that never accepts; a submitter that never
reads. Each poison ends in the dead letters after exactly its attempts, and the others go on.

`python -m tests.fault.poison --rounds 30`
"""

import argparse
import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

import plait
from plait.v1 import task_pb2, task_service_pb2_grpc
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.fault import books
from tests.fault.command import run
from tests.fault.contract import messages, stubs
from tests.fault.history import History
from tests.fault.journal import executions
from tests.fault.outcome import Outcome
from tests.fault.site import resident_bytes, start_fault_worker, supervised
from tests.fault.stubborn import Stubborn
from tests.fault.traffic import Traffic
from tests.support.mesh import Caller, Mesh

HOWS = ("abort", "hang", "eat")
ATTEMPTS = 3
"""As fault.proto has it."""
ENDS_S = 120.0
SETTLE_S = 120.0
OUTBOUND_BYTES = 16 << 20
ENV = {
    "PLAIT_BROKER_HEARTBEAT_INTERVAL": "500ms",
    "PLAIT_BROKER_OUTBOUND_BYTES_MAX": str(OUTBOUND_BYTES),
}
DEAF_TASKS = 20
LARGE_BYTES = 200_000
LARGE_TASKS = 200
GROWTH_BYTES = 160 << 20
"""What the broker may grow by for 40 MB that nobody reads: their record in memory, twice, and
what the allocator keeps."""


async def campaign(rounds: int, folder: Path) -> Outcome:
    """Poison of each kind, `rounds` in all, beside healthy traffic; then deaf peers."""
    outcome = Outcome("poison", ["I10", "I11", "I19"], "poison task or deaf peer")
    journal = folder / "echo.tsv"
    history = History(journal)
    traffic = Traffic("poison", window=64, history=history)
    async with Mesh(folder, env=ENV) as mesh, mesh.caller() as caller:
        await mesh.start_worker("rust", env={"ECHO_JOURNAL": str(journal)})
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.run(caller.plait))
            async with supervised(lambda: start_fault_worker(mesh)):
                for number in range(rounds):
                    await _poison(outcome, caller, HOWS[number % len(HOWS)])
                    await traffic.progress(20)
                await _deaf_worker(outcome, mesh, caller)
            await _deaf_submitter(outcome, mesh, traffic)
            traffic.stop()
            async with asyncio.timeout(SETTLE_S):
                await running
        begun = _begun(folder / "journal.tsv")
        for number, how in enumerate(HOWS):
            tasks = len(range(number, rounds, len(HOWS)))
            said = f"{how} began {begun[how]} times, in {tasks} tasks of {ATTEMPTS} attempts"
            outcome.check(begun[how] == tasks * ATTEMPTS, said)
    books.audit(outcome, traffic, executions(journal), zombies=False)
    await history.check(outcome)
    outcome.tried = rounds + 2
    outcome.notes = (
        f"{', '.join(HOWS)} by turns, a worker that never reads, a submitter that never does"
    )
    outcome.figures |= {"healthy_tasks": traffic.acknowledged}
    return outcome.ended()


async def _poison(outcome: Outcome, caller: Caller, how: str) -> None:
    stub = stubs().FaultServiceStub(caller.plait.channel())
    task = await caller.plait.submit(stub.Poison, messages().PoisonRequest(how=how))
    async with asyncio.timeout(ENDS_S):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await task.result()
            outcome.violated(f"{how}: {task.id} has a result")
    ended = await caller.get(task.id)
    state = task_pb2.TaskState.Name(ended.state)
    outcome.check(
        ended.state == task_pb2.TASK_STATE_FAILED and ended.dead_letter,
        f"{how}: {task.id} is {state}, in the dead letters: {ended.dead_letter}",
    )
    outcome.check(
        ended.attempt == ATTEMPTS, f"{how}: {task.id} ended after {ended.attempt} attempts"
    )


def _begun(journal: Path) -> Counter[str]:
    """How often each kind of poison began."""
    lines = [line.split("\t") for line in journal.read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == "Poison" and line[4] == "begun")


async def _deaf_worker(outcome: Outcome, mesh: Mesh, caller: Caller) -> None:
    """It is attached, takes nothing of what it is sent and never says that it lives: it is cut, and
    another worker has the tasks."""
    stub = stubs().FaultServiceStub(caller.plait.channel())
    requests = [messages().WaitRequest(key=f"deaf-{n}") for n in range(DEAF_TASKS)]
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        deaf = Stubborn(channel, "deaf", ["/fault.v1.FaultService/Wait"])
        await deaf.attach(1000)
        tasks = [task async for task in caller.plait.submit_many(stub.Wait, requests)]
        try:
            async with asyncio.timeout(ENDS_S):
                await asyncio.gather(*(task.result() for task in tasks))
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            outcome.violated(f"a deaf worker keeps its tasks: {error!r}")
        finally:
            await deaf.end()


async def _deaf_submitter(outcome: Outcome, mesh: Mesh, traffic: Traffic) -> None:
    """It submits 40 MB, wants the results, and reads none of them: its stream is cut, the broker
    stays small, and others are served."""
    assert mesh.broker is not None
    before = resident_bytes(mesh.broker.pid)
    over = asyncio.Event()
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        call = task_service_pb2_grpc.TaskServiceStub(channel).SubmitStream(_floods(over))
        async with asyncio.timeout(ENDS_S):
            await traffic.progress(500)
            code = None
            try:
                while await call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                code = error.code()
                slow = plait.errors.reason(error) == plait.errors.Reason.SLOW_READER
                outcome.check(
                    # A client that was still writing is told only that by its own library.
                    slow or code is grpc.StatusCode.INTERNAL,
                    f"the submitter that never reads was told {error.details()}",
                )
        over.set()
        outcome.check(code is not None, "the submitter that never reads was not cut")
    growth = resident_bytes(mesh.broker.pid) - before
    outcome.figures["broker_growth_mib"] = growth >> 20
    outcome.check(growth < GROWTH_BYTES, f"the broker grew by {growth >> 20} MiB")


async def _floods(over: asyncio.Event) -> AsyncIterator[api.SubmitStreamRequest]:
    hello = api.SessionHello(session=b"never-reads-0123", client="stubborn/1")
    yield api.SubmitStreamRequest(hello=hello)
    payload = pb.EchoRequest(payload=b"x" * LARGE_BYTES).SerializeToString()
    for sequence in range(1, LARGE_TASKS + 1):
        frame = api.SubmitFrame(methods=["/testing.v1.EchoService/Echo"], payloads=[payload])
        submit = api.SequencedSubmit(sequence=sequence, tasks=frame)
        setattr(submit, "await", True)
        yield api.SubmitStreamRequest(submit=submit)
    # It stays, and says no more.
    await over.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="poison", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="plait-poison-") as folder:
        run(campaign(rounds, Path(folder)))


if __name__ == "__main__":
    main()
