"""What a worker holds, and what it has to say to the broker about it (protocol §4).

No stream and no clock: it is asked for the next message, and told what was heard.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from interop.reference import statuses
from interop.reference.attempt import Attempt, Lease
from plait.v1 import worker_service_pb2 as workers_api

TASKS_MAX = 256
"""Most outcomes in a frame."""
BYTES_MAX = 1 << 20
"""Most bytes of responses and failures in a frame of more than one outcome."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    lease: Lease
    ended: bytes | statuses.StatusError

    @property
    def size(self) -> int:
        """What it adds to a frame, in bytes."""
        if isinstance(self.ended, bytes):
            return len(self.ended)
        return statuses.to_failure(self.ended, 0).ByteSize()


class Holdings:
    """Leases from their receipt to the settlement of their outcome."""

    def __init__(self) -> None:
        self.attempts: dict[Lease, Attempt] = {}
        """Received and not ended; in the order of receipt."""
        self.draining = False
        self._received = self._acknowledged = self._sequence = 0
        self._outcomes: deque[Outcome] = deque()
        self._unsettled: dict[int, tuple[Outcome, ...]] = {}
        self._handed_back: list[Lease] = []
        self._suspended: list[Lease] = []
        self._drain_told = False

    @property
    def empty(self) -> bool:
        """Whether nothing is left, and all that was said is settled."""
        said = self._outcomes or self._unsettled or self._handed_back or self._suspended
        return not self.attempts and not said

    def held(self) -> list[workers_api.HeldLease]:
        """For a hello: leases still held, outcomes not settled included."""
        unsettled = (each.lease for frame in self._unsettled.values() for each in frame)
        waiting = (each.lease for each in self._outcomes)
        leases = [*self.attempts, *unsettled, *waiting]
        return [workers_api.HeldLease(task=task, token=token) for task, token in leases]

    def attached(self, lost: Iterable[workers_api.HeldLease]) -> list[Attempt]:
        """A new stream: numbers begin again, what is not settled is said again. Answers with the
        attempts that are lost."""
        gone = {(each.task, each.token) for each in lost}
        again = [each for frame in self._unsettled.values() for each in frame]
        self._outcomes = deque(each for each in (*again, *self._outcomes) if each.lease not in gone)
        self._unsettled.clear()
        # Those two are no longer held, so the broker has taken them back with the old stream.
        self._handed_back.clear()
        self._suspended.clear()
        self._received = self._acknowledged = self._sequence = 0
        self._drain_told = False
        return [attempt for lease in gone if (attempt := self.attempts.pop(lease, None))]

    def received(self, sequence: int, attempts: Iterable[Attempt]) -> None:
        """A frame of attempts came. An empty one counts, too."""
        self._received = sequence
        for attempt in attempts:
            self.attempts[attempt.lease] = attempt

    def ended(self, attempt: Attempt, ended: bytes | statuses.StatusError) -> None:
        """A handler is done."""
        if self.attempts.pop(attempt.lease, None) is not None:
            self._outcomes.append(Outcome(attempt.lease, ended))

    def hand_back(self, attempt: Attempt) -> None:
        """It will not be started."""
        del self.attempts[attempt.lease]
        self._handed_back.append(attempt.lease)

    def suspend(self, attempt: Attempt) -> None:
        """It waits for children, and is not kept meanwhile."""
        del self.attempts[attempt.lease]
        self._suspended.append(attempt.lease)

    def settled(self, sequence: int) -> None:
        """Outcomes up to a number are durable, or refused."""
        for each in [number for number in self._unsettled if number <= sequence]:
            del self._unsettled[each]

    def next(self) -> workers_api.AttachRequest | None:
        """What to say now; None: nothing. Receipts go along with whatever is said."""
        request = workers_api.AttachRequest(accepted_sequence=self._received)
        for say in self._says():
            if say(request):
                break
        else:
            if self._acknowledged == self._received:
                return None
        self._acknowledged = self._received
        return request

    def _says(self) -> tuple[Callable[[workers_api.AttachRequest], bool], ...]:
        return (
            self._say_drain,
            self._say_outcomes,
            self._say_back,
            self._say_suspended,
            self._say_progress,
        )

    def _say_drain(self, request: workers_api.AttachRequest) -> bool:
        if not self.draining or self._drain_told:
            return False
        self._drain_told = True
        request.drain.reason = "it was told to stop"
        return True

    def _say_outcomes(self, request: workers_api.AttachRequest) -> bool:
        if not self._outcomes:
            return False
        taken = [self._outcomes.popleft()]
        size = taken[0].size
        while self._outcomes and len(taken) < TASKS_MAX:
            size += self._outcomes[0].size
            if size > BYTES_MAX:
                break
            taken.append(self._outcomes.popleft())
        self._sequence += 1
        self._unsettled[self._sequence] = tuple(taken)
        frame = request.outcomes
        frame.sequence = self._sequence
        for index, outcome in enumerate(taken):
            task, token = outcome.lease
            frame.tasks.append(task)
            frame.tokens.append(token)
            done = outcome.ended if isinstance(outcome.ended, bytes) else b""
            frame.payloads.append(done)
            if isinstance(outcome.ended, statuses.StatusError):
                frame.failures.append(statuses.to_failure(outcome.ended, index))
        return True

    def _say_back(self, request: workers_api.AttachRequest) -> bool:
        return _leases(request.hand_back, self._handed_back) if self._handed_back else False

    def _say_suspended(self, request: workers_api.AttachRequest) -> bool:
        return _leases(request.suspend, self._suspended) if self._suspended else False

    def _say_progress(self, request: workers_api.AttachRequest) -> bool:
        told = [attempt for attempt in self.attempts.values() if attempt.progress is not None]
        for attempt in told:
            request.progress.entries.add(
                task=attempt.task, token=attempt.token, progress=attempt.progress
            )
            attempt.progress = None
        return bool(told)


def _leases(
    frame: workers_api.HandBackFrame | workers_api.SuspendFrame, leases: list[Lease]
) -> bool:
    frame.tasks.extend(task for task, _ in leases)
    frame.tokens.extend(token for _, token in leases)
    leases.clear()
    return True
