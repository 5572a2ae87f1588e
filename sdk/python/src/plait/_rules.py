"""How calls of a method are tried again, given a rest and bounded: what its contract says, and what
a program says over it."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, TypedDict, Unpack

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from plait import _descriptors
from plait._limit import seconds_of
from plait._statuses import code_of
from plait.breaker import Config as BreakerConfig
from plait.limiter import Config as LimiterConfig
from plait.v1 import options_pb2

# A task may be tried for days; a call has a caller who waits.
ATTEMPTS: Final = 3
# A6.
ATTEMPTS_MAX: Final = 5
BUDGET_TOKENS: Final = 10


class AttemptOptions(TypedDict, total=False):
    """What may be said about the attempts of direct calls. What is left out is the contract's."""

    max_attempts: int
    """Attempts in all, 1 to 5. Default 3, or the policy's retry.max_attempts where it is less; 1
    with AT_MOST_ONCE."""
    idempotent: bool
    """Whether it may be done twice: also INTERNAL, UNKNOWN and DEADLINE_EXCEEDED of an attempt are
    tried again. Default: an idempotency_level or an idempotency_key in the contract."""
    hedge: bool
    """Whether a call that takes long is sent once more beside the first, and the first answer is
    taken. Idempotent methods only. Default: with idempotency_level NO_SIDE_EFFECTS."""
    hedge_delay: float | timedelta
    """How long a call takes before, in seconds, at least 1 ms. Default: what 95 % of the latest
    calls took, at least 10 ms; none is hedged before 20 were answered."""


class DirectOptions(AttemptOptions, total=False):
    """What may be said about a channel of direct calls. What is left out is the contract's."""

    breaker: BreakerConfig | None
    """When a method is given a rest; None: never. Default: the policy's breaker. A channel that
    says so counts for itself."""
    limiter: LimiterConfig | None
    """How many calls of a method may be under way; None: any number. A channel that says so counts
    for itself."""
    budget_tokens: int
    """The size of the retry budget of a service, in failures; half of it may be spent. Default 10.
    A channel that says so counts for itself."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the calls of one method."""

    max_attempts: int = ATTEMPTS
    idempotent: bool = False
    hedge: bool = False
    hedge_delay_ms: int | None = None
    # Codes that are not tried again.
    never: frozenset[grpc.StatusCode] = frozenset()
    breaker: BreakerConfig | None = field(default_factory=BreakerConfig)
    limiter: LimiterConfig | None = field(default_factory=LimiterConfig)
    budget_tokens: int = BUDGET_TOKENS

    def under(self, said: DirectOptions | AttemptOptions | None) -> "Rules":
        """These, where a program says nothing else."""
        if not said:
            return self
        found: dict[str, Any] = dict(said)
        if "max_attempts" in found:
            found["max_attempts"] = max(1, min(ATTEMPTS_MAX, found["max_attempts"]))
        if "hedge_delay" in found:
            found["hedge_delay_ms"] = max(1, int(seconds_of(found.pop("hedge_delay")) * 1000))
        return replace(self, **found)


current: ContextVar[AttemptOptions | None] = ContextVar("plait_attempt_options", default=None)


@contextlib.contextmanager
def direct_options(**said: Unpack[AttemptOptions]) -> Iterator[None]:
    """Sets options for the direct calls that are made inside; the names are those of
    AttemptOptions.

        with plait.direct_options(max_attempts=1):
            price = await prices.Get(request)
    """
    both: AttemptOptions = {**(current.get() or {}), **said}
    token = current.set(both)
    try:
        yield
    finally:
        current.reset(token)


def of_method(path: str) -> Rules:
    """What the contract in this program says of "/package.Service/Method"; the defaults where it
    has none."""
    method = _descriptors.find_method(path)
    if method is None:
        return Rules()
    policy = merged_policy(method)
    level = method.GetOptions().idempotency_level
    once = policy.delivery == options_pb2.DELIVERY_AT_MOST_ONCE
    attempts = policy.retry.max_attempts if policy.retry.HasField("max_attempts") else ATTEMPTS
    return Rules(
        max_attempts=1 if once else max(1, min(ATTEMPTS, attempts)),
        idempotent=bool(policy.idempotency_key)
        or level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT),
        hedge=level == MethodOptions.NO_SIDE_EFFECTS and not once,
        never=_never(method, policy.retry),
        breaker=_breaker(policy.breaker),
    )


def merged_policy(method: MethodDescriptor) -> options_pb2.TaskPolicy:
    """The method's policy over its service's defaults, field by field."""
    merged = options_pb2.TaskPolicy()
    merged.CopyFrom(method.containing_service.GetOptions().Extensions[options_pb2.task_defaults])
    _lay(method.GetOptions().Extensions[options_pb2.task], merged)
    return merged


def _lay(over: Message, under: Message) -> None:
    """Copies what is set; a duration and a list are one value."""
    for each, value in over.ListFields():
        if each.is_repeated:
            under.ClearField(each.name)
            getattr(under, each.name).extend(value)
        elif each.type != FieldDescriptor.TYPE_MESSAGE:
            setattr(under, each.name, value)
        elif isinstance(value, Duration):
            getattr(under, each.name).CopyFrom(value)
        else:
            getattr(under, each.name).SetInParent()
            _lay(value, getattr(under, each.name))


def _never(method: MethodDescriptor, retry: options_pb2.RetryPolicy) -> frozenset[grpc.StatusCode]:
    own = method.GetOptions().Extensions[options_pb2.task].retry
    more = set() if own.non_retryable_codes else set(retry.retryable_codes)
    return frozenset(code_of(each) for each in set(retry.non_retryable_codes) - more)


def _breaker(policy: options_pb2.BreakerPolicy) -> BreakerConfig | None:
    if policy.disabled:
        return None
    said: dict[str, int] = {}
    for each, value in policy.ListFields():
        if isinstance(value, Duration):
            said[f"{each.name}_ms"] = value.ToMilliseconds()
        elif each.name in ("min_calls", "failure_permille", "half_open_probes"):
            said[each.name] = value
    return BreakerConfig(**said)
