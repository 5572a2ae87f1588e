"""What a session has to send: submissions that wait for a frame, and frames that wait for their
acknowledgement.

No I/O. A cursor runs over the numbered frames: it goes back when the broker refused a frame for
back-pressure or when
the stream broke, and a new frame is built only when it has reached the end.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from plait._submission import Submission
from plait._wire import FRAME_BYTES_MAX, FRAME_TASKS_MAX
from plait.v1 import task_pb2, task_service_pb2

# Frames sent and not acknowledged: 16,384 tasks, or 32 MiB where tasks are large.
UNACKED_FRAMES_MAX: Final = 64
UNACKED_BYTES_MAX: Final = 32 * 1024 * 1024


class Frame:
    """A numbered frame and the submissions in it."""

    __slots__ = ("awaited", "message", "size", "submissions")

    def __init__(
        self,
        message: task_service_pb2.SubmitStreamRequest,
        submissions: list[Submission],
        size: int,
    ) -> None:
        self.message = message
        self.submissions = submissions
        self.size = size
        self.awaited = submissions[0].awaited


class Outbox:
    """Submissions and frames of one session, in order."""

    def __init__(self) -> None:
        self.queue: deque[Submission] = deque()
        self.frame_tasks_max = FRAME_TASKS_MAX
        # By number, ascending.
        self._unacked: dict[int, Frame] = {}
        self._unacked_bytes = 0
        # The number of the next frame to send, and of the next one to build.
        self._cursor = 1
        self._next = 1

    @property
    def first_unacked(self) -> int:
        """The lowest number without an acknowledgement, or the next one."""
        return next(iter(self._unacked), self._next)

    def take(self) -> task_service_pb2.SubmitStreamRequest | None:
        """The next message to send; None when there is none, or the unacknowledged ones are
        enough."""
        while self._cursor < self._next:
            frame = self._unacked.get(self._cursor)
            self._cursor += 1
            if frame is not None:
                return frame.message
        full = len(self._unacked) >= UNACKED_FRAMES_MAX or self._unacked_bytes >= UNACKED_BYTES_MAX
        if full or not self.queue:
            return None
        frame = self._build()
        self._unacked[self._next] = frame
        self._unacked_bytes += frame.size
        self._next += 1
        self._cursor = self._next
        return frame.message

    def acknowledge(self, sequence: int) -> Frame | None:
        """Removes and answers the frame with this number; None if it was acknowledged before."""
        frame = self._unacked.pop(sequence, None)
        if frame is not None:
            self._unacked_bytes -= frame.size
        return frame

    def rewind(self, sequence: int) -> None:
        """Sends again from this number on."""
        self._cursor = min(self._cursor, sequence)

    def restart(self) -> None:
        """Sends again everything that is not acknowledged: the stream is a new one."""
        self._cursor = self.first_unacked

    def renumber(self) -> None:
        """Numbers from 1 again: the session is a new one."""
        frames = list(self._unacked.values())
        for number, frame in enumerate(frames, 1):
            frame.message.submit.sequence = number
        self._unacked = dict(enumerate(frames, 1))
        self._next = len(frames) + 1
        self._cursor = 1

    def clear(self) -> Iterator[Submission]:
        """Takes out every submission that is not acknowledged, in order."""
        frames, self._unacked, self._unacked_bytes = self._unacked, {}, 0
        self._cursor = self._next
        for frame in frames.values():
            yield from frame.submissions
        while self.queue:
            yield self.queue.popleft()

    def _build(self) -> Frame:
        submissions, size = self._next_batch()
        # Built in place: a message given to another one's constructor is copied.
        message = task_service_pb2.SubmitStreamRequest()
        submit = message.submit
        submit.sequence = self._next
        setattr(submit, "await", submissions[0].awaited)
        frame = submit.tasks
        frame.payloads.extend([each.payload for each in submissions])
        _put_methods(frame, submissions)
        _put_keys(frame, submissions)
        _put_options(frame, submissions)
        return Frame(message, submissions, size)

    def _next_batch(self) -> tuple[list[Submission], int]:
        """The submissions that go next: of one kind, in order, within the limits of a frame."""
        queue = self.queue
        first = queue.popleft()
        batch, size = [first], _size(first, None)
        while queue and len(batch) < self.frame_tasks_max:
            head = queue[0]
            more = _size(head, first.options)
            if head.awaited is not first.awaited or size + more > FRAME_BYTES_MAX:
                break
            size += more
            batch.append(queue.popleft())
        return batch, size


def _size(submission: Submission, common: task_pb2.TaskOptions | None) -> int:
    """About how many bytes it takes in a frame whose tasks have these options in common."""
    size = len(submission.payload)
    if submission.options is not common and submission.options is not None:
        size += submission.options.ByteSize()
    for key in (submission.idempotency_key, submission.ordering_key, submission.limit_key):
        if key is not None:
            size += len(key)
    return size


def _put_methods(frame: task_service_pb2.SubmitFrame, batch: list[Submission]) -> None:
    first = batch[0].method
    if all(each.method is first for each in batch):
        frame.methods.append(first.route)
        return
    index: dict[str, int] = {}
    frame.method_index.extend(
        [index.setdefault(each.method.route, len(index)) for each in batch],
    )
    frame.methods.extend(index)


def _put_keys(frame: task_service_pb2.SubmitFrame, batch: list[Submission]) -> None:
    keys = [each.idempotency_key or "" for each in batch]
    if any(keys):
        frame.idempotency_keys.extend(keys)
    keys = [each.ordering_key or "" for each in batch]
    if any(keys):
        frame.ordering_keys.extend(keys)
    keys = [each.limit_key or "" for each in batch]
    if any(keys):
        frame.limit_keys.extend(keys)


_NO_OPTIONS: Final = task_pb2.TaskOptions()


def _put_options(frame: task_service_pb2.SubmitFrame, batch: list[Submission]) -> None:
    common = batch[0].options
    if common is not None:
        frame.common.CopyFrom(common)
    for index, each in enumerate(batch):
        if each.options is not common:
            frame.options.add(index=index, options=each.options or _NO_OPTIONS)
