"""Weights that an operator gives to keys whose tasks take turns."""

from dataclasses import dataclass

from plait_scheduler.domain.policy import MethodPolicy


@dataclass(frozen=True, slots=True)
class Share:
    """The weight of one key of one method."""

    # Full path.
    method: str
    # The key.
    key: str
    # How many turns it has in a round; every other key has one.
    weight: int
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


def takes_turns(policy: MethodPolicy) -> bool:
    """Whether the keys of a method take turns: because it says so, or since a limit is by key."""
    by_rate = policy.rate_limit is not None and policy.rate_limit.by_key
    return policy.fair_by_key or by_rate or policy.concurrency_per_key > 0
