"""Rollouts: how much of a service's work a version of its workers gets, and what comes next.

Pure: a rollout and the time in, the next one out. What its attempts say is in rollout_evidence.
"""

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

# A share is counted in so many parts.
WHOLE = 10_000
# How long tasks of the version before wait for a worker of theirs before the new one gets them.
FALLBACK_MS = 10_000
EVENTS_MAX = 50
STEPS_MAX = 20
TEXT_MAX = 200
REASON_MAX = 1000


class State(enum.Enum):
    """How a rollout is."""

    RUNNING = "running"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


class Sticky(enum.Enum):
    """What keeps tasks with one version."""

    TASK = "task"
    ORDERING_KEY = "ordering-key"
    IDEMPOTENCY_KEY = "idempotency-key"
    LIMIT_KEY = "limit-key"


@dataclass(frozen=True, slots=True)
class Step:
    """A share, and how long it is looked at."""

    share: int
    hold_ms: int


@dataclass(frozen=True, slots=True)
class Rollback:
    """When a version has done too badly."""

    # Never by itself.
    off: bool = False
    # The share of failed attempts may be so much higher, in 1/10,000.
    error_margin: int = 100
    # The time that 90 % of attempts stay within may be so many times longer, in thousandths;
    # 0: any.
    latency_ratio: int = 2_000
    # Attempts on each side before anything is judged.
    samples_min: int = 50


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that happened to a rollout."""

    # Milliseconds since 1970.
    at_ms: int
    # The share from then on.
    share: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be rolled out."""

    service: str
    # The version, as its workers announce it.
    to: str
    # The version before; "": not known, or one without a name.
    before: str = ""
    # Where there are no steps.
    share: int = 0
    steps: tuple[Step, ...] = ()
    sticky: Sticky = Sticky.TASK
    rollback: Rollback = field(default_factory=Rollback)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout, and how it is with it."""

    plan: Plan
    state: State
    # Of the version.
    share: int
    # Of the step that is taken; as many as there are steps where none will be taken any more.
    step: int
    started_ms: int
    # When the share was set last.
    changed_ms: int
    # The latest is the last.
    events: tuple[Happened, ...]

    @property
    def reason(self) -> str:
        """Why it is as it is."""
        return self.events[-1].reason if self.events else ""

    @property
    def salt(self) -> str:
        """Goes into the hash of keys: the same for the same version, should it be tried again."""
        return f"{self.plan.service}@{self.plan.to}"


@dataclass(frozen=True, slots=True)
class Split:
    """What the broker is told of a rollout."""

    service: str
    # The version that has the share; workers of all others have the rest.
    version: str
    share: int
    sticky: Sticky
    salt: str
    fallback_ms: int = FALLBACK_MS


def faults(plan: Plan) -> list[tuple[str, str]]:
    """What is wrong with a plan: fields and why."""
    checks = (
        ("service", 0 < len(plan.service) <= TEXT_MAX, f"has 1 to {TEXT_MAX} characters"),
        ("to", 0 < len(plan.to) <= TEXT_MAX, f"has 1 to {TEXT_MAX} characters"),
        ("to", plan.to != plan.before or not plan.to, "is what it would take the place of"),
        ("from", len(plan.before) <= TEXT_MAX, f"has at most {TEXT_MAX} characters"),
        ("share", 0 <= plan.share <= WHOLE, f"is not within 0 to {WHOLE}"),
        *_step_checks(plan.steps),
        *_rollback_checks(plan.rollback),
    )
    return [(name, problem) for name, good, problem in checks if not good]


def _step_checks(steps: Sequence[Step]) -> tuple[tuple[str, bool, str], ...]:
    shares = [step.share for step in steps]
    return (
        ("steps", len(steps) <= STEPS_MAX, f"are at most {STEPS_MAX}"),
        ("steps", all(0 < each <= WHOLE for each in shares), f"have shares of 1 to {WHOLE}"),
        ("steps", all(one < two for one, two in itertools.pairwise(shares)), "have growing shares"),
        ("steps", all(step.hold_ms >= 0 for step in steps), "are held for 0 or longer"),
    )


def _rollback_checks(rollback: Rollback) -> tuple[tuple[str, bool, str], ...]:
    margin, ratio = rollback.error_margin, rollback.latency_ratio
    return (
        ("rollback.error_margin", 0 <= margin <= WHOLE, f"is not within 0 to {WHOLE}"),
        ("rollback.latency_ratio", ratio == 0 or ratio >= 1_000, "is 0, or at least 1000"),
        ("rollback.samples_min", rollback.samples_min > 0, "is at least 1"),
    )


def start(plan: Plan, now_ms: int) -> Rollout:
    """A plan without faults begins."""
    share = plan.steps[0].share if plan.steps else plan.share
    begun = Happened(now_ms, share, f"version {plan.to} gets {percent(share)}")
    return Rollout(plan, State.RUNNING, share, 0, now_ms, now_ms, (begun,))


def set_share(rollout: Rollout, share: int, now_ms: int) -> Rollout:
    """By hand: what steps are left is not taken."""
    changed = _changed(rollout, share, now_ms, f"set to {percent(share)} by hand")
    return replace(changed, state=State.RUNNING, step=len(rollout.plan.steps))


def promote(rollout: Rollout, now_ms: int, reason: str = "promoted by hand") -> Rollout:
    """The version has everything."""
    return replace(_changed(rollout, WHOLE, now_ms, reason), state=State.PROMOTED)


def abort(rollout: Rollout, now_ms: int, reason: str) -> Rollout:
    """Somebody took everything from the version."""
    text = f"aborted: {reason}" if reason else "aborted by hand"
    return replace(_changed(rollout, 0, now_ms, text), state=State.ABORTED)


def roll_back(rollout: Rollout, now_ms: int, reason: str) -> Rollout:
    """It did badly."""
    return replace(_changed(rollout, 0, now_ms, reason), state=State.ROLLED_BACK)


def advance(rollout: Rollout, now_ms: int, attempts: int) -> Rollout | None:
    """The next step, if it is due; after the last one, if that gave everything, the end.

    `attempts` of the version since its share was set: with too few of them nobody knows how it
    does, and it goes on as it is.
    """
    steps = rollout.plan.steps
    if rollout.state is not State.RUNNING or rollout.step >= len(steps):
        return None
    enough = rollout.plan.rollback.off or attempts >= rollout.plan.rollback.samples_min
    if now_ms - rollout.changed_ms < steps[rollout.step].hold_ms or not enough:
        return None
    following = rollout.step + 1
    if following < len(steps):
        share = steps[following].share
        changed = _changed(rollout, share, now_ms, f"step {following + 1}: {percent(share)}")
        return replace(changed, step=following)
    if rollout.share == WHOLE:
        return promote(rollout, now_ms, "all steps are done")
    return replace(rollout, step=following)


def split(rollout: Rollout) -> Split:
    """What the broker is to do. One that is over keeps out the version that lost, so that any later
    version takes tasks without being named.
    """
    plan, version, share = rollout.plan, rollout.plan.to, rollout.share
    if rollout.state is State.PROMOTED and plan.before:
        version, share = plan.before, 0
    return Split(plan.service, version, share, plan.sticky, rollout.salt)


def splits(rollouts: Sequence[Rollout]) -> tuple[Split, ...]:
    """Of all of them, by service."""
    return tuple(split(each) for each in sorted(rollouts, key=lambda each: each.plan.service))


def percent(share: int) -> str:
    """As people write it: "12.5 %"."""
    return f"{share / 100:g} %"


def _changed(rollout: Rollout, share: int, now_ms: int, reason: str) -> Rollout:
    events = (*rollout.events, Happened(now_ms, share, reason[:REASON_MAX]))[-EVENTS_MAX:]
    return replace(rollout, share=share, changed_ms=now_ms, events=events)
