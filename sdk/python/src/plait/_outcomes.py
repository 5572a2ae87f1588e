"""Outcomes of attempts on their way to the broker: kept until it has settled them. No I/O."""

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from plait._wire import FRAME_BYTES_MAX, FRAME_TASKS_MAX
from plait.v1 import task_service_pb2, worker_service_pb2

_NOTHING: Final = b""


class Outcome(NamedTuple):
    """How an attempt ended: a response, or a failure."""

    lease: tuple[int, int]
    payload: bytes
    failure: task_service_pb2.Failure | None


class Outcomes:
    """What is to be sent, and what was sent and is not settled."""

    def __init__(self) -> None:
        self._waiting: deque[Outcome] = deque()
        self._unsettled: dict[int, list[Outcome]] = {}
        self._next = 1

    def __bool__(self) -> bool:
        """Whether anything is not settled."""
        return bool(self._waiting or self._unsettled)

    def add(
        self,
        lease: tuple[int, int],
        payload: bytes | None,
        failure: task_service_pb2.Failure | None,
    ) -> None:
        """An attempt ended."""
        self._waiting.append(Outcome(lease, payload or _NOTHING, failure))

    def take(self) -> worker_service_pb2.AttachRequest | None:
        """The next message to send; None when nothing waits."""
        if not self._waiting:
            return None
        batch = self._next_batch()
        message = worker_service_pb2.AttachRequest()
        frame = message.outcomes
        frame.sequence = self._next
        frame.tasks.extend([each.lease[0] for each in batch])
        frame.tokens.extend([each.lease[1] for each in batch])
        frame.payloads.extend([each.payload for each in batch])
        for index, each in enumerate(batch):
            if each.failure is not None:
                failure = frame.failures.add()
                failure.CopyFrom(each.failure)
                failure.index = index
        self._unsettled[self._next] = batch
        self._next += 1
        return message

    def settle(self, sequence: int) -> None:
        """The broker has made durable everything up to this frame."""
        for number in [each for each in self._unsettled if each <= sequence]:
            del self._unsettled[number]

    def leases(self) -> Iterator[tuple[int, int]]:
        """The leases of everything that is not settled."""
        return (each.lease for each in self._all())

    def restart(self, lost: Collection[tuple[int, int]]) -> None:
        """Everything is to be sent again, on a new stream, but for the leases that are lost."""
        self._waiting = deque(each for each in self._all() if each.lease not in lost)
        self._unsettled = {}
        self._next = 1

    def _all(self) -> Iterator[Outcome]:
        for batch in self._unsettled.values():
            yield from batch
        yield from self._waiting

    def _next_batch(self) -> list[Outcome]:
        waiting = self._waiting
        batch = [waiting.popleft()]
        size = _size(batch[0])
        while waiting and len(batch) < FRAME_TASKS_MAX:
            size += _size(waiting[0])
            if size > FRAME_BYTES_MAX:
                break
            batch.append(waiting.popleft())
        return batch


def _size(outcome: Outcome) -> int:
    """About how many bytes it takes in a frame."""
    return len(outcome.payload) + (0 if outcome.failure is None else outcome.failure.ByteSize())
