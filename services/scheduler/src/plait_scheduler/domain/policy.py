"""A compiled policy: what one method's option, its service's defaults and our defaults come to."""

import enum
from dataclasses import dataclass

from plait_scheduler.domain.schedule import Schedule


class KeyKind(enum.Enum):
    """How a key field is encoded, and so how its text is made."""

    STRING = "string"
    BYTES = "bytes"
    INT = "int"
    UINT = "uint"
    SINT = "sint"
    BOOL = "bool"
    FIXED32 = "fixed32"
    FIXED64 = "fixed64"
    SFIXED32 = "sfixed32"
    SFIXED64 = "sfixed64"


class Latency(enum.Enum):
    """How soon tasks begin beside others."""

    CRITICAL = "critical"
    STANDARD = "standard"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Where a key is in a request."""

    # As written: "order.id".
    path: str
    # The field numbers along it.
    numbers: tuple[int, ...]
    # How the last field is encoded.
    kind: KeyKind


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a failed attempt is run again."""

    # Attempts in all.
    max_attempts: int
    # Bound of the first wait.
    initial_backoff_ms: int
    # Bound of every wait.
    max_backoff_ms: int
    # Growth of the bound.
    multiplier_permille: int
    # gRPC codes that are retried.
    codes: frozenset[int]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit on starts."""

    # Starts a period.
    limit: int
    # The period.
    period_ms: int
    # Starts at once after a rest.
    burst: int
    # Whether each key has a limit of its own.
    by_key: bool


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a failing method rests."""

    # Outcomes in the window before it may open.
    min_calls: int
    # Share of failures that opens it.
    failure_permille: int
    # The sliding window.
    window_ms: int
    # The first open time.
    open_ms: int
    # The longest open time.
    open_max_ms: int
    # Attempts let through while half open.
    half_open_probes: int


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    """The policy of one method. Every field is decided; nothing is a default here."""

    # "/package.Service/Method".
    method: str
    # Digest of the contract that it comes from.
    contract: str
    # The queue that its tasks wait in.
    queue: str
    # Time for the whole task.
    deadline_ms: int
    # Time for one attempt.
    attempt_timeout_ms: int
    # When and how often a failed attempt is run again.
    retry: Retry
    # What makes a submission idempotent; None: nothing.
    idempotency_key: KeyPath | None
    # How long such a key is remembered.
    idempotency_window_ms: int
    # What puts tasks in order; None: nothing.
    ordering_key: KeyPath | None
    # 0 to 9, higher first.
    priority: int
    # Whether a started attempt is never repeated.
    at_most_once: bool
    # How long a finished task is kept.
    retention_ms: int
    # How long a dead letter is kept; 0: there are none.
    dead_letter_retention_ms: int
    # None: unlimited.
    rate_limit: RateLimit | None
    # Attempts at once, 0: unlimited.
    concurrency_limit: int
    # Attempts at once for one key, 0: unlimited.
    concurrency_per_key: int
    # The key of rate_limit, concurrency_per_key and fair_by_key; None: none has one.
    limit_key: KeyPath | None
    # None: it never rests.
    breaker: Breaker | None
    # How long an answer stays fresh in a cache, 0: not at all.
    cache_ttl_ms: int
    # When it runs by itself; None: never.
    schedule: Schedule | None = None
    # Goes before the priority.
    latency: Latency = Latency.STANDARD
    # The share of starts of its queue, 1 to 1000; 0: not said, which is 1 if no method says it.
    queue_weight: int = 0
    # Whether keys take turns, also where nothing limits them.
    fair_by_key: bool = False
