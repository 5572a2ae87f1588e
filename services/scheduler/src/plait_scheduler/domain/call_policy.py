"""What a method's policy means for a direct call, as far as gRPC's own clients can be told.

A task's policy counts in minutes and days; a call has a caller who waits: three attempts, at most
300 s. docs/direct-calls.md has the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from plait_scheduler.domain import codes
from plait_scheduler.domain.policy import Breaker, MethodPolicy

TIMEOUT_MS_MAX = 300_000
TIMEOUT_MS = 60_000
ATTEMPTS_MAX = 3
INITIAL_BACKOFF_MS = 100
MAX_BACKOFF_MS = 5_000
# Envoy's own default. Calls under way from one client to one version of a service.
REQUESTS_MAX = 1024
# Of a version's workers: while less than half are out one more may be (A50), and one alone stays.
EJECTED_PERCENT_MAX = 50
EJECTION_HOSTS_MIN = 2


@dataclass(frozen=True, slots=True)
class CallRetry:
    """When and how often the client library calls again."""

    # Names as xDS has them. It has none for ABORTED and UNKNOWN, and no "only with a pushback"
    # for RESOURCE_EXHAUSTED, so these are left to the caller.
    on: tuple[str, ...]
    # Attempts in all, at least 2.
    max_attempts: int
    initial_backoff_ms: int = INITIAL_BACKOFF_MS
    max_backoff_ms: int = MAX_BACKOFF_MS


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How one method is called."""

    # The longest that a call may take, and what one without a deadline gets.
    timeout_ms: int = TIMEOUT_MS
    # None: not at all.
    retry: CallRetry | None = None


@dataclass(frozen=True, slots=True)
class Outlier:
    """When a worker that fails is left out for a while."""

    interval_ms: int
    base_ejection_ms: int
    max_ejection_ms: int
    # Calls in an interval before a worker is judged.
    volume_min: int
    # Share of failures in percent.
    failure_percent: int


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """What holds for all methods of one version together, since clients count them together."""

    requests_max: int = REQUESTS_MAX
    # None: no worker is left out.
    outlier: Outlier | None = None


def call_policy(policy: MethodPolicy) -> CallPolicy:
    """How a method is called."""
    timeout_ms = min(policy.attempt_timeout_ms, policy.deadline_ms, TIMEOUT_MS_MAX)
    return CallPolicy(timeout_ms, _retry(policy))


def cluster_policy(policies: Sequence[MethodPolicy]) -> ClusterPolicy:
    """What the policies of a service's methods come to together."""
    limits = [each.concurrency_limit for each in policies]
    bounded = bool(limits) and all(limits)
    requests_max = min(sum(limits), REQUESTS_MAX) if bounded else REQUESTS_MAX
    return ClusterPolicy(requests_max, _outlier([each.breaker for each in policies]))


def _retry(policy: MethodPolicy) -> CallRetry | None:
    attempts = min(policy.retry.max_attempts, ATTEMPTS_MAX)
    if policy.at_most_once or attempts < 2:
        return None
    wanted = {codes.UNAVAILABLE: "unavailable"}
    if policy.idempotency_key is not None:
        wanted[codes.INTERNAL] = "internal"
    on = tuple(name for code, name in wanted.items() if code in policy.retry.codes)
    return CallRetry(on, attempts) if on else None


def _outlier(breakers: Sequence[Breaker | None]) -> Outlier | None:
    """The most lenient of the methods' breakers: what is left out is left out for all of them."""
    found = [breaker for breaker in breakers if breaker is not None]
    if not found or len(found) < len(breakers):
        return None
    return Outlier(
        interval_ms=max(each.window_ms for each in found),
        base_ejection_ms=min(each.open_ms for each in found),
        max_ejection_ms=min(each.open_max_ms for each in found),
        volume_min=max(each.min_calls for each in found),
        # Whole percents, and rounded up: never stricter than what is written.
        failure_percent=-(-max(each.failure_permille for each in found) // 10),
    )
