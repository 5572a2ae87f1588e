"""Local processes, as people see them."""

import enum
from dataclasses import dataclass


class ProcessState(enum.Enum):
    """What a process does."""

    RUNNING = enum.auto()
    # It died and is started again soon.
    RESTARTING = enum.auto()
    # It dies again and again with no attempt under way.
    CRASH_LOOP = enum.auto()
    # It was asked to end.
    STOPPING = enum.auto()


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """A process that is to run, or to end."""

    # Its name.
    name: str
    # The worker that it is one of the processes of; "": of none.
    worker: str
    # Its process id; 0 while it does not run.
    pid: int
    state: ProcessState
    # How long it has been so, in milliseconds.
    age_ms: int
    # How often it died by itself.
    deaths: int = 0
    # Of those, how often attempts were under way.
    deaths_with_attempts: int = 0
    # Of its last death; negative for a signal.
    exit_code: int = 0
    # Tasks that may be what ends the worker's processes.
    suspects: tuple[str, ...] = ()
