"""What changes from one contract to the next, and what that asks of the work in flight."""

import enum
from dataclasses import dataclass


class Effect(enum.Enum):
    """What a change means for those who use the contract in force."""

    # Nobody has to do anything.
    HARMLESS = "harmless"
    # Refused while there are tasks that it concerns.
    NEEDS_DRAIN = "needs drain"
    # Refused.
    REFUSED = "refused"


class Part(enum.Enum):
    """A part of the work in flight."""

    # Tasks without an outcome: queued, delayed, running, between attempts, suspended.
    UNFINISHED = "unfinished"
    # Failed tasks that are kept and may be run again.
    DEAD_LETTER = "dead letter"
    # Finished children that an unfinished flow answers from its record.
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Look:
    """Which of the tasks in flight a change concerns."""

    # Full paths of methods.
    methods: tuple[str, ...]
    parts: frozenset[Part] = frozenset(Part)
    # Only those that were accepted, or for dead letters failed, so long ago.
    age_ms: int = 0
    # Only those that have had so many attempts.
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One change."""

    # What kind: REQUEST_TYPE_CHANGED and the like.
    kind: str
    # The method, message, field or enum value: "shop.v1.Order.id".
    subject: str
    # What it was and what it is.
    description: str
    effect: Effect = Effect.HARMLESS
    # What to do; empty for a harmless change.
    advice: str = ""
    # The tasks that it concerns; None: none.
    look: Look | None = None
    # Whether an earlier contract may come back with it: a change of what only sources and JSON
    # know, which was an addition on the way forth.
    reversible: bool = False

    @property
    def breaks_bytes(self) -> bool:
        """Whether bytes of the one are not read by the other."""
        return self.effect is Effect.REFUSED and not self.reversible
