"""What the scheduler observes, as decisions need it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ContractAnnounced:
    """A contract waits for a decision."""

    # Names the announcement in the answer.
    announcement: int
    # A serialized FileDescriptorSet.
    descriptor_set: bytes
    # Full names of the services announced.
    services: tuple[str, ...]
    # Only a verdict is wanted.
    validate_only: bool
    # SHA-256 of the descriptor set, in hexadecimal.
    digest: str
    # Whether a worker is about to serve it.
    for_worker: bool = False
    # Whether it is to be in force whatever is served.
    replace: bool = False


@dataclass(frozen=True, slots=True)
class WorkerAttached:
    """A worker attached."""

    # Its id.
    worker: str
    # Its name, for people.
    name: str
    # Version of its program.
    version: str
    # Name and version of its SDK.
    client: str
    # Routes that it serves: full method paths, some with "@" and a version.
    methods: tuple[str, ...]
    # Attempts that it can run at once.
    slots: int
    # Digests of the contracts that it announced.
    contracts: tuple[str, ...] = ()
    # "host:port" where its methods can be called directly; "": nowhere, or no longer.
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class WorkerDetached:
    """A worker is gone."""

    # Its id.
    worker: str
    # Why, for people.
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker in one interval."""

    # Its id.
    worker: str
    # Its offer.
    slots: int
    # Its window.
    window: int
    # Unfinished attempts that it holds, suspended flows not counted.
    in_flight: int = 0
    # Suspended flows that it keeps in memory.
    suspended: int = 0
    # Attempts that ended well in the interval.
    succeeded: int = 0
    # Attempts that failed in the interval.
    failed: int = 0
    # Time from dispatch to outcome, summed over those that ended in the interval.
    busy_ms: int = 0
    # How attempts ended that began since its gate was set last, by method: how many say that it is
    # well, how many that it is ill.
    said: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    # Those that say nothing, as cancelled ones.
    said_nothing: int = 0
    # Attempts that its gate lets it have; None: any number.
    permits: int | None = None

    @property
    def ended(self) -> int:
        """Attempts that ended in the interval."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method in one interval."""

    # Full path.
    method: str
    # Attempts that ended, by gRPC code, of those that began since the method's gate was set last.
    fresh_outcomes: tuple[int, ...] = ()
    # Attempts that its gate lets begin; None: any number.
    permits: int | None = None


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue."""

    # Its name.
    queue: str
    # Tasks that may start, and the age of the oldest in milliseconds.
    ready: int = 0
    oldest_ready_ms: int = 0
    # Tasks that run.
    running: int = 0
    # Whether an operator holds it.
    paused: bool = False


@dataclass(frozen=True, slots=True)
class LostAttempts:
    """Attempts that ended because their worker went away."""

    # The worker's id.
    worker: str
    # How many.
    attempts: int
    # Ids of the first of their tasks.
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """What was counted since the figures before."""

    # How long that was.
    interval_ms: int
    # Every attached worker.
    workers: tuple[WorkerFigures, ...]
    # The methods of which anything happened, and those with a gate.
    methods: tuple[MethodFigures, ...] = ()
    # Every queue.
    queues: tuple[QueueFigures, ...] = ()
    # Workers that went away with attempts under way.
    lost: tuple[LostAttempts, ...] = ()
    # Whether they came before their time and have only what breakers go by, which is not told
    # again: workers of whom nothing is said are not in them.
    early: bool = False


Event = ContractAnnounced | WorkerAttached | WorkerDetached | Figures
