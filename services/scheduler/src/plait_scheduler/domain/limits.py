"""An operator's limits in place of a contract's."""

from dataclasses import dataclass, replace

from plait_scheduler.domain.policy import MethodPolicy, RateLimit


@dataclass(frozen=True, slots=True)
class Rate:
    """Attempts in a time, by key where the contract's are."""

    # Starts a period; 0: any number.
    limit: int
    # The period.
    period_ms: int
    # Starts at once after a rest.
    burst: int


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator has set of one method."""

    # Full path.
    method: str
    # None: as the contract says.
    rate: Rate | None
    # Attempts at once, 0: any number. None: as the contract says.
    concurrency: int | None
    # When it was set, in milliseconds since 1970.
    set_ms: int
    # When it ends by itself; 0: it does not.
    expire_ms: int
    # Why, and who says so.
    reason: str
    set_by: str

    def is_over(self, now_ms: int) -> bool:
        """Whether its time is over."""
        return 0 < self.expire_ms <= now_ms


def limited(policy: MethodPolicy, override: Override | None) -> MethodPolicy:
    """The policy that is in force."""
    if override is None:
        return policy
    if override.concurrency is not None:
        policy = replace(policy, concurrency_limit=override.concurrency)
    if override.rate is None:
        return policy
    rate = None
    if override.rate.limit:
        by_key = policy.rate_limit is not None and policy.rate_limit.by_key
        wanted = override.rate
        rate = RateLimit(wanted.limit, wanted.period_ms, wanted.burst, by_key)
    return replace(policy, rate_limit=rate)
