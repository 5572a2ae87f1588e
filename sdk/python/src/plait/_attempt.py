"""The attempt that a handler runs for."""

import time

from plait._run import Run, current

Pair = tuple[str, str | bytes]


class Attempt:
    """One execution of a task, as its handler sees it: `plait.attempt()`."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def number(self) -> int:
        """The number of this attempt of the task, from 1."""
        extra = self._run.extra
        return (extra.attempt or 1) if extra is not None else 1

    @property
    def task_id(self) -> str:
        """The task: "t" and 16 hexadecimal digits."""
        return f"t{self._run.lease[0]:016x}"

    @property
    def idempotency_key(self) -> str:
        """Equal for every attempt of the task: its idempotency key, or its id where it has none."""
        extra = self._run.extra
        return (extra.idempotency_key if extra is not None else "") or self.task_id

    @property
    def ordering_key(self) -> str:
        """The task's ordering key; "" for none."""
        extra = self._run.extra
        return extra.ordering_key if extra is not None else ""

    @property
    def fencing_token(self) -> int:
        """Grows with every lease of the task. A store that remembers it can refuse a write of an
        older attempt."""
        return self._run.lease[1]

    @property
    def deadline(self) -> float:
        """When the attempt's time is over: an instant of time.monotonic(), in seconds."""
        return self._run.deadline

    def time_remaining(self) -> float:
        """Seconds left for the attempt, never below 0."""
        return max(0.0, self._run.deadline - time.monotonic())

    def progress(self, fraction: float, message: str = "") -> None:
        """Tells how far the handler is: a share from 0 to 1 and a line for people.

        The latest report wins; it goes out with what is sent next, and may be lost with the worker.
        May be called from
        any thread. Raises ValueError for a share outside 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress is a share from 0 to 1, not {fraction}")
        self._run.holdings.report_progress(self._run, fraction, message)


def attempt() -> Attempt:
    """The attempt that the calling handler runs for. Raises LookupError outside a handler."""
    run = current.get()
    if run is None:
        raise LookupError("plait.attempt() is for the handler of a task, and none is running here")
    return Attempt(run)


def invocation_metadata(run: Run) -> tuple[Pair, ...]:
    """What was submitted with the task, and what Plait adds to it."""
    here = Attempt(run)
    submitted = run.extra.metadata if run.extra is not None else ()
    return (
        *((each.key, metadata_value(each.key, each.value)) for each in submitted),
        ("plait-task-id", here.task_id),
        ("plait-attempt", str(here.number)),
        ("plait-fencing-token", str(here.fencing_token)),
        ("plait-idempotency-key", here.idempotency_key),
    )


def metadata_value(key: str, value: bytes) -> str | bytes:
    """The value as gRPC hands it out: bytes for a key that ends in "-bin", else text."""
    return value if key.endswith("-bin") else value.decode(errors="replace")
