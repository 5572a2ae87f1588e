"""The results that a session waits for: tasks whose numbers are known and whose outcomes are
not."""

from collections.abc import Iterable

import grpc

from plait import _statuses
from plait._submission import Submission
from plait.v1 import task_service_pb2


class Wanted:
    """Submissions by task number, and what the broker is still to be told about them."""

    def __init__(self) -> None:
        self._by_number: dict[int, Submission] = {}
        self._ask: list[Submission] = []
        self._forget: list[int] = []

    def add(self, submission: Submission) -> None:
        """The broker knows already that this result is wanted."""
        number = submission.number
        twin = self._by_number.get(number)
        if twin is not None and twin is not submission:
            submission.twin = twin
        self._by_number[number] = submission

    def ask(self, submission: Submission) -> None:
        """The broker is to be asked for this result."""
        self.add(submission)
        self._ask.append(submission)

    def forget(self, submission: Submission) -> None:
        """The result is no longer wanted; the broker is told unless somebody else waits for it."""
        number = submission.number
        head = self._by_number.get(number)
        rest = [each for each in _chain(head) if each is not submission]
        for here, following in zip(rest, [*rest, None][1:], strict=True):
            here.twin = following
        submission.twin = None
        if rest:
            self._by_number[number] = rest[0]
        elif head is not None:
            del self._by_number[number]
        if not rest:
            self._forget.append(number)

    def restart(self) -> None:
        """Asks for everything again: the stream is a new one."""
        self._ask = list(self._by_number.values())
        self._forget = []

    def take(self) -> task_service_pb2.SubmitStreamRequest | None:
        """The next message to send; None when there is none. Results for one flow are asked for
        together."""
        if not self._ask and not self._forget:
            return None
        message = task_service_pb2.SubmitStreamRequest()
        frame = getattr(message, "await")
        frame.forget.extend(self._forget)
        self._forget = []
        ask = [each for each in self._ask if not each.done and each.number in self._by_number]
        if ask:
            flow = ask[0].flow
            frame.tasks.extend([each.number for each in ask if each.flow is flow])
            if flow is not None:
                frame.parent.CopyFrom(flow.parent)
            ask = [each for each in ask if each.flow is not flow]
        self._ask = ask
        frame.SetInParent()
        return message

    def settle(self, results: task_service_pb2.ResultFrame) -> None:
        """Hands out the results of a frame. Those that nobody waits for any more are dropped."""
        failures = {each.index: each for each in results.failures} if results.failures else {}
        pop = self._by_number.pop
        for index, (number, payload) in enumerate(
            zip(results.tasks, results.payloads, strict=True)
        ):
            submission = pop(number, None)
            if submission is None:
                continue
            error = _error(failures[index]) if index in failures else None
            if submission.twin is None:
                submission.finish(payload, error)
            else:
                for each in list(_chain(submission)):
                    each.twin = None
                    each.finish(payload, error)

    def clear(self) -> Iterable[Submission]:
        """Takes out everything that waits."""
        heads = list(self._by_number.values())
        self._by_number.clear()
        self._ask, self._forget = [], []
        return [each for head in heads for each in list(_chain(head))]


def _chain(submission: Submission | None) -> Iterable[Submission]:
    while submission is not None:
        yield submission
        submission = submission.twin


def _error(failure: task_service_pb2.Failure) -> grpc.aio.AioRpcError:
    trailers = tuple(
        (each.key, each.value if each.key.endswith("-bin") else each.value.decode(errors="replace"))
        for each in failure.trailers
    )
    return _statuses.from_parts(failure.code, failure.message, failure.details, trailers)
