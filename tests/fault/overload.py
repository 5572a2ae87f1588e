"""Five times the load that can be sustained, with a limit on the broker's memory: the broker stays
small and goes on at its pace, submitters are told to come again later, what was admitted ends, and
a queue that overflows leaves another domain's alone.

The figures are ratios of one run. First the peak is found: as much as the workers do when there is
always something to do and nothing is refused. Then an open loop offers five times as much. The
handlers wait, so that the workers are the bound and not the cores that all share.

`python -m tests.fault.overload --seconds 180`
"""

import argparse
import asyncio
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import error_details_pb2

from plait.v1 import task_pb2, task_service_pb2_grpc
from plait.v1 import task_service_pb2 as api
from tests.fault.command import run
from tests.fault.contract import messages, stubs
from tests.fault.history import SLEEP, History
from tests.fault.outcome import Outcome
from tests.fault.site import resident_bytes, start_fault_worker
from tests.support.mesh import Caller, Mesh
from tests.support.requests import nap
from tests.support.waiting import elapse

FACTOR = 5
QUEUE_TASKS_MAX = 2000
MEMORY_BYTES = 256 << 20
"""What the broker may be resident with; its address space is limited to four times that, since
threads reserve more than they use."""
FRAME = 64
PAYLOAD = nap(0.02).SerializeToString()
SLOTS = 8
"""Of each of two workers: 800 naps a second."""
PROBE_S = 0.05
ADMITTED_S_MAX = 60.0
GOODPUT_MIN = 0.9
"""Of the peak, on a machine that does nothing else."""


@dataclass
class Flood:
    """An open loop: frames at a rate, whatever becomes of them."""

    tasks_per_s: float
    history: History | None = None
    offered: int = 0
    accepted: int = 0
    refused: int = 0
    ended: int = 0
    ended_meanwhile: int = 0
    """While the load was on."""
    bare: int = 0
    """Refusals without RetryInfo."""
    latencies: list[float] = field(default_factory=list)
    _sent: dict[int, float] = field(default_factory=dict)
    _begun: dict[int, float] = field(default_factory=dict)
    _asked: dict[int, list[int]] = field(default_factory=dict)
    """Of each frame on its way, its submissions in the history."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, address: str, seconds: float, session: bytes) -> None:
        """Offers for so long, then waits for what was admitted."""
        async with grpc.aio.insecure_channel(address) as channel:
            requests = self._frames(seconds, session)
            call = task_service_pb2_grpc.TaskServiceStub(channel).SubmitStream(requests)
            async with asyncio.timeout(seconds + ADMITTED_S_MAX):
                async for said in call:
                    self._take(said)
                    if self._over.is_set() and not self._sent and not self._begun:
                        break
            self._closed.set()

    async def _frames(
        self, seconds: float, session: bytes
    ) -> AsyncIterator[api.SubmitStreamRequest]:
        yield api.SubmitStreamRequest(hello=api.SessionHello(session=session, client="flood/1"))
        begun = time.monotonic()
        for sequence in itertools.count(1):
            due = begun + self.offered / self.tasks_per_s
            if due > begun + seconds:
                break
            await elapse(max(0.0, due - time.monotonic()))
            submit = api.SequencedSubmit(
                sequence=sequence,
                tasks=api.SubmitFrame(methods=[SLEEP], payloads=[PAYLOAD] * FRAME),
            )
            setattr(submit, "await", True)
            self.offered += FRAME
            self._sent[sequence] = time.monotonic()
            if self.history is not None:
                self._asked[sequence] = [
                    self.history.asked(SLEEP, "flood", place=(sequence, index))
                    for index in range(FRAME)
                ]
            yield api.SubmitStreamRequest(submit=submit)
        self._over.set()
        # The stream stays open for the results.
        await self._closed.wait()

    def _take(self, said: api.SubmitStreamResponse) -> None:
        now = time.monotonic()
        if said.HasField("accepted"):
            sent = self._sent.pop(said.accepted.sequence)
            self._tell(said.accepted)
            if said.accepted.HasField("retry_after"):
                self.refused += FRAME
                return
            for task in said.accepted.accepted.tasks:
                if task:
                    self.accepted += 1
                    self._begun[task] = sent
            for refusal in said.accepted.accepted.refusals:
                self.refused += 1
                self.bare += not _has_retry_info(refusal)
        failed = {failure.index: failure.state for failure in said.results.failures}
        for index, task in enumerate(said.results.tasks):
            if self.history is not None:
                state = failed.get(index, task_pb2.TASK_STATE_SUCCEEDED)
                name = task_pb2.TaskState.Name(state).removeprefix("TASK_STATE_")
                self.history.ended(_name(task), name)
            if (begun := self._begun.pop(task, None)) is not None:
                self.ended += 1
                self.ended_meanwhile += not self._over.is_set()
                self.latencies.append(now - begun)

    def _tell(self, said: api.SequencedAccepted) -> None:
        if self.history is None:
            return
        asked = self._asked.pop(said.sequence)
        if said.HasField("retry_after"):
            for number in asked:
                self.history.refused(number, "OVERLOADED")
            return
        for number, task in zip(asked, said.accepted.tasks, strict=True):
            if task:
                self.history.acknowledged(number, _name(task))
            else:
                self.history.refused(number, "QUEUE_FULL")


def _name(task: int) -> str:
    return f"t{task:016x}"


def _has_retry_info(refusal: api.Refusal) -> bool:
    info = error_details_pb2.RetryInfo()
    told = any(detail.Unpack(info) for detail in refusal.status.details)
    return told and refusal.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def campaign(seconds: float, folder: Path, goodput_min: float = GOODPUT_MIN) -> Outcome:
    """Runs the whole; `seconds`: of overload; `goodput_min`: what it may fall to, of the peak."""
    outcome = Outcome("overload", ["I1", "I10", "I19"], "second of overload")
    env = {
        "PLAIT_BROKER_QUEUE_TASKS_MAX": str(QUEUE_TASKS_MAX),
        "PLAIT_BROKER_RESIDENT_BYTES_MAX": str(32 << 20),
    }
    async with Mesh(folder, env=env) as mesh, mesh.caller() as caller:
        await mesh.start_worker("go", concurrency=SLOTS)
        await mesh.start_worker("rust", concurrency=SLOTS)
        await start_fault_worker(mesh)
        assert mesh.broker is not None
        limit = 4 * MEMORY_BYTES
        resource.prlimit(mesh.broker.pid, resource.RLIMIT_AS, (limit, limit))
        peak = await _peak(mesh, max(3.0, seconds / 5))
        quiet = await _probe(caller, max(2.0, seconds / 5))
        history = History(folder / "flood.tsv")
        flood = Flood(FACTOR * peak, history)
        flooding = asyncio.ensure_future(flood.run(mesh.address, seconds, b"o" * 16))
        loud = await _probe(caller, seconds)
        await flooding
        goodput = flood.ended_meanwhile / seconds
        resident = resident_bytes(mesh.broker.pid)
        outcome.check(mesh.broker.running, "the broker is gone")
    _judge(outcome, flood, goodput / peak, resident, goodput_min)
    await history.check(outcome)
    outcome.tried = round(seconds)
    outcome.figures |= {
        "peak_tasks_per_s": round(peak),
        "offered_over_peak": round(flood.offered / seconds / peak, 2),
        "goodput_over_peak": round(goodput / peak, 2),
        "refused_share": round(flood.refused / max(1, flood.offered), 2),
        "admitted_p50_s": round(_quantile(flood.latencies, 0.5), 3),
        "admitted_p99_s": round(_quantile(flood.latencies, 0.99), 3),
        "other_queue_p50_ratio": round(_quantile(loud, 0.5) / _quantile(quiet, 0.5), 2),
        "other_queue_p50_ms": round(1000 * _quantile(loud, 0.5), 1),
        "broker_resident_mib": resident >> 20,
    }
    outcome.notes = (
        f"offered {outcome.figures['offered_over_peak']} x peak, goodput "
        f"{outcome.figures['goodput_over_peak']} x peak, broker {resident >> 20} MiB"
    )
    return outcome.ended()


def _judge(
    outcome: Outcome, flood: Flood, goodput: float, resident: int, goodput_min: float
) -> None:
    outcome.check(flood.refused > 0, "nothing was refused: this was no overload")
    outcome.check(flood.bare == 0, f"{flood.bare} refusals without RetryInfo")
    outcome.check(flood.ended == flood.accepted, f"{flood.accepted} admitted, {flood.ended} ended")
    outcome.check(resident < MEMORY_BYTES, f"the broker has {resident >> 20} MiB")
    outcome.check(goodput >= goodput_min, f"goodput fell to {goodput:.2f} of the peak")


async def _peak(mesh: Mesh, seconds: float) -> float:
    """Tasks a second with as many waiting as a queue may hold, and none refused."""
    done = 0
    end = time.monotonic() + seconds
    window = asyncio.Semaphore(QUEUE_TASKS_MAX * 3 // 4 // FRAME)

    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)

        async def frames() -> AsyncIterator[api.SubmitStreamRequest]:
            yield api.SubmitStreamRequest(hello=api.SessionHello(session=b"p" * 16))
            for sequence in itertools.count(1):
                await window.acquire()
                if time.monotonic() > end:
                    return
                submit = api.SequencedSubmit(
                    sequence=sequence,
                    tasks=api.SubmitFrame(methods=[SLEEP], payloads=[PAYLOAD] * FRAME),
                )
                setattr(submit, "await", True)
                yield api.SubmitStreamRequest(submit=submit)

        call = stub.SubmitStream(frames())
        begun = time.monotonic()
        async for said in call:
            if time.monotonic() > end:
                break
            before = done // FRAME
            done += len(said.results.tasks)
            for _ in range(done // FRAME - before):
                window.release()
        took = time.monotonic() - begun
        call.cancel()
    return done / took


async def _probe(caller: Caller, seconds: float) -> list[float]:
    """Latencies of single tasks of another domain: another queue, another worker."""
    found: list[float] = []
    stub = stubs().FaultServiceStub(caller.plait.channel())
    end = time.monotonic() + seconds
    for number in itertools.count():
        begun = time.monotonic()
        if begun > end:
            return found
        await stub.Keep(messages().KeepRequest(key=f"{begun}/{number}"))
        found.append(time.monotonic() - begun)
        await elapse(PROBE_S)
    return found


def _quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=1000)[round(share * 1000) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="plait-overload-") as folder:
        run(campaign(seconds, Path(folder)))


if __name__ == "__main__":
    main()
