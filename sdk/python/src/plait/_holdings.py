"""What a worker holds: attempts, outcomes that are not settled, and what else is to be said. No
I/O.

It outlives the streams: the leases that it holds are listed in the hello of the next one.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from plait._flags import Board
from plait._outcomes import Outcomes
from plait._run import Run
from plait._served import Served
from plait._slots import Slots
from plait._threads import Threads
from plait.v1 import task_pb2, task_service_pb2, worker_service_pb2

Lease: TypeAlias = "tuple[int, int]"

# A handler may report as often as it likes; people do not read faster than this.
PROGRESS_INTERVAL_S: Final = 0.1


class Holdings:
    """The attempts of one worker and its messages to the broker."""

    def __init__(
        self,
        served: list[Served],
        slots: int,
        threads: Threads | None,
        core: object,
        wake: Callable[[], None],
    ) -> None:
        """`served` are the methods of the hello, in order; `core` is the client's, whose calls are
        children of its
        handlers; `wake` is called when `take` has something new.
        """
        self.slots = Slots(slots, self._finish, threads)
        self.core = core
        # The feature flags that the worker was told of.
        self.flags = Board()
        self.peer = ""
        self.payload_bytes_max = 0
        # Set while nothing is held and every outcome is settled.
        self.empty = asyncio.Event()
        self.empty.set()
        self._served = served
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._held: dict[Lease, Run] = {}
        self._outcomes = Outcomes()
        self._progress: dict[Lease, task_pb2.Progress] = {}
        # Progress waits while this timer runs.
        self._progress_timer: asyncio.TimerHandle | None = None
        self._hand_back: list[Lease] = []
        # Flows that were unloaded.
        self._suspended: list[Lease] = []
        # The highest frame of this stream that was received, and that the broker was told of.
        self._received = 0
        self._told = 0
        self._drain_reason: str | None = None
        self._drain_told = False
        self._heartbeat_due = False

    def leases(self) -> list[Lease]:
        """Every lease that is held, those of outcomes that are not settled included."""
        return [*self._held, *self._outcomes.leases()]

    def restart(self, welcome: worker_service_pb2.WorkerWelcome) -> None:
        """A new stream: stops what was lost and sends again what was not settled."""
        self.payload_bytes_max = welcome.payload_bytes_max
        self.flags.replace(welcome.flags)
        lost = {(each.task, each.token) for each in welcome.lost}
        for lease in lost:
            run = self._held.get(lease)
            if run is not None:
                run.stop()
        self._outcomes.restart(lost)
        self._hand_back = [lease for lease in self._hand_back if lease not in lost]
        # The broker unloads a waiting flow by itself when the stream of its worker ends.
        self._suspended.clear()
        self._received = self._told = 0
        self._drain_told = False
        self._check_empty()

    def take(self) -> worker_service_pb2.AttachRequest | None:
        """The next message to send; None when there is none. It tells what was received, too."""
        message = self._say()
        if message is None and self._received > self._told:
            message = worker_service_pb2.AttachRequest()
        if message is not None:
            message.accepted_sequence = self._told = self._received
            self._heartbeat_due = False
        return message

    def heartbeat(self) -> None:
        """Has something said, if nothing else is."""
        self._heartbeat_due = True

    def attempts(self, frame: worker_service_pb2.AttemptFrame) -> None:
        """Takes the attempts of a frame."""
        now = time.monotonic()
        extras = {each.index: each for each in frame.extras} if frame.extras else None
        indices = frame.method_index or [0] * len(frame.tasks)
        queue, held = self.slots.queue, self._held
        for number, (task, token, method, payload, timeout_ms) in enumerate(
            zip(
                frame.tasks,
                frame.tokens,
                indices,
                frame.payloads,
                frame.timeout_ms,
                strict=True,
            )
        ):
            extra = extras.get(number) if extras is not None else None
            lease = (task, token)
            run = Run(self, self._served[method], lease, payload, now + timeout_ms / 1000, extra)
            held[lease] = run
            queue.append(run)
        self._received = frame.sequence
        self.empty.clear()
        if self._drain_reason is not None:
            self._give_back_queue()
            self._check_empty()
        # First the slots and then the writer: handlers that do not wait have their outcomes in the
        # next message.
        self.slots.start()
        self._wake()

    def settled(self, frame: worker_service_pb2.SettledFrame) -> None:
        """Outcomes are durable."""
        self._outcomes.settle(frame.sequence)
        self._check_empty()

    def stop(self, leases: Iterable[Lease]) -> None:
        """The broker wants no outcome of these any more."""
        for lease in leases:
            run = self._held.get(lease)
            if run is not None:
                run.stop()

    def stop_all(self) -> None:
        """Nobody wants any outcome any more."""
        self.stop(list(self._held))

    def drain(self, reason: str) -> None:
        """Takes no more, hands back what has not started, and unloads flows that wait for
        children."""
        self._drain_reason = reason
        self._give_back_queue()
        for run in list(self._held.values()):
            if run.flow is not None and run.flow.waits:
                self._unload(run)
        self._check_empty()
        self._wake()

    def flow_waits(self, run: Run) -> None:
        """A handler is about to stand still for a child; a worker that drains does not wait with
        it."""
        if self._drain_reason is not None:
            self._unload(run)
            self._wake()

    def report_progress(self, run: Run, fraction: float, message: str) -> None:
        """A handler tells how far it is; from any thread."""
        progress = task_pb2.Progress(fraction=fraction, message=message)
        if threading.get_ident() == self._thread:
            self._put_progress(run, progress)
        else:
            self._loop.call_soon_threadsafe(self._put_progress, run, progress)

    def _put_progress(self, run: Run, progress: task_pb2.Progress) -> None:
        if run.lease in self._held:
            self._progress[run.lease] = progress
            if self._progress_timer is None:
                self._wake()

    def _finish(
        self, run: Run, response: bytes | None, failure: task_service_pb2.Failure | None
    ) -> None:
        self._held.pop(run.lease, None)
        self._progress.pop(run.lease, None)
        if response is not None or failure is not None:
            self._outcomes.add(run.lease, response, failure)
            self._wake()
        elif not self._held:
            self._check_empty()

    def _give_back_queue(self) -> None:
        queue = self.slots.queue
        while queue:
            run = queue.popleft()
            del self._held[run.lease]
            if not run.stopped:
                self._hand_back.append(run.lease)

    def _unload(self, run: Run) -> None:
        """Takes a flow away from its handler. The broker has it run again, wherever, when a child
        ends. A thread cannot be told to end, so a plain function goes on to its outcome."""
        if run.stopped or run.runner is None or run.lease not in self._held:
            return
        del self._held[run.lease]
        self._progress.pop(run.lease, None)
        self._suspended.append(run.lease)
        run.stop()

    def _check_empty(self) -> None:
        if self._held or self._outcomes:
            self.empty.clear()
        else:
            self.empty.set()

    def _say(self) -> worker_service_pb2.AttachRequest | None:
        if self._drain_reason is not None and not self._drain_told:
            self._drain_told = True
            drain = worker_service_pb2.WorkerDrain(reason=self._drain_reason)
            return worker_service_pb2.AttachRequest(drain=drain)
        message = self._outcomes.take()
        if message is not None:
            return message
        if self._hand_back:
            leases, self._hand_back = self._hand_back, []
            back = worker_service_pb2.HandBackFrame(
                tasks=[task for task, _ in leases], tokens=[token for _, token in leases]
            )
            return worker_service_pb2.AttachRequest(hand_back=back)
        if self._suspended:
            leases, self._suspended = self._suspended, []
            flows = worker_service_pb2.SuspendFrame(
                tasks=[task for task, _ in leases], tokens=[token for _, token in leases]
            )
            return worker_service_pb2.AttachRequest(suspend=flows)
        if self._progress and self._progress_timer is None:
            return self._say_progress()
        if self._heartbeat_due:
            beat = worker_service_pb2.WorkerHeartbeat(
                running=self.slots.busy, waiting=len(self.slots.queue)
            )
            return worker_service_pb2.AttachRequest(heartbeat=beat)
        return None

    def _let_progress(self) -> None:
        self._progress_timer = None
        if self._progress:
            self._wake()

    def _say_progress(self) -> worker_service_pb2.AttachRequest:
        self._progress_timer = self._loop.call_later(PROGRESS_INTERVAL_S, self._let_progress)
        reports, self._progress = self._progress, {}
        message = worker_service_pb2.AttachRequest()
        for (task, token), progress in reports.items():
            message.progress.entries.add(task=task, token=token, progress=progress)
        return message
