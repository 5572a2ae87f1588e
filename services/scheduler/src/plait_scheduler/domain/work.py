"""The work in flight, and which of it a change concerns."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from plait_scheduler.domain.change import Change, Effect, Look, Part

# Tasks of one method that are counted exactly.
TASKS_MAX = 10_000
# Tasks that are named.
NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class WorkTask:
    """A task in flight."""

    # Its id.
    id: str
    part: Part
    # Its state: "READY" and the like.
    state: str
    # When it was accepted, in milliseconds since 1970.
    create_ms: int
    # When it failed, of a dead letter; 0: it has not.
    end_ms: int = 0
    # The attempt that runs or ran last; 0 before the first.
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What is in flight of one method."""

    tasks: tuple[WorkTask, ...] = ()
    # Whether there may be more: over TASKS_MAX, or the time for looking was over.
    more: bool = False


@dataclass(frozen=True, slots=True)
class Affected:
    """The tasks that a change concerns."""

    # By state; FAILED ones are dead letters.
    counts: Mapping[str, int]
    # Finished children on record.
    recorded: int
    # Whether there may be more.
    more: bool
    # Ids, oldest first.
    first: tuple[str, ...]
    # How long ago the oldest was accepted, in milliseconds.
    oldest_ms: int

    @property
    def total(self) -> int:
        """How many there are at least."""
        return sum(self.counts.values()) + self.recorded


@dataclass(frozen=True, slots=True)
class Finding:
    """A change, and what it means now."""

    change: Change
    effect: Effect
    affected: Affected | None = None


def judge(change: Change, work: Mapping[str, Work], now_ms: int) -> Finding:
    """What a change means with this work in flight, by method.

    What could not be looked at to its end counts as concerned: nobody knows that it is not.
    """
    if change.look is None:
        return Finding(change, change.effect)
    affected = _affected(change.look, work, now_ms)
    if affected.total or affected.more:
        return Finding(change, change.effect, affected)
    drained = change.effect is Effect.NEEDS_DRAIN
    return Finding(change, Effect.HARMLESS if drained else change.effect)


def _affected(look: Look, work: Mapping[str, Work], now_ms: int) -> Affected:
    looked_at = [work.get(method, Work()) for method in look.methods]
    found = [task for each in looked_at for task in each.tasks if _concerns(look, task, now_ms)]
    found.sort(key=lambda task: (task.create_ms, task.id))
    shown = found[:TASKS_MAX]
    states = Counter(task.state for task in shown if task.part is not Part.RECORDED)
    return Affected(
        counts=dict(sorted(states.items())),
        recorded=sum(task.part is Part.RECORDED for task in shown),
        more=len(found) > TASKS_MAX or any(each.more for each in looked_at),
        first=tuple(task.id for task in found[:NAMED_MAX]),
        oldest_ms=max(0, now_ms - found[0].create_ms) if found else 0,
    )


def _concerns(look: Look, task: WorkTask, now_ms: int) -> bool:
    since = task.end_ms if task.part is Part.DEAD_LETTER else task.create_ms
    return (
        task.part in look.parts and now_ms - since >= look.age_ms and task.attempt >= look.attempts
    )
