"""A schedule and how it is with it, as it is kept and as decisions see it."""

import enum
from dataclasses import dataclass

from plait_scheduler.domain.units import DAY_MS, SECOND_MS

# A restart, or a second scheduler that takes over, takes less: what is up to so late is on time.
GRACE_MS = 10 * SECOND_MS
WINDOW_MS = 365 * DAY_MS
RUNS_KEPT = 10


class Overlap(enum.Enum):
    """What happens when a run is due and the task of the run before is not finished."""

    SKIP = "skip"
    ALLOW = "allow"
    BUFFER_ONE = "buffer_one"
    CANCEL_PREVIOUS = "cancel_previous"


class Missed(enum.Enum):
    """What becomes of runs whose time passed while no scheduler was there."""

    ONCE = "once"
    SKIP = "skip"
    ALL = "all"


class Cause(enum.Enum):
    """Why a run was started."""

    TIME = "time"
    TRIGGER = "trigger"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What was declared."""

    # [A-Za-z0-9._-], at most 200.
    name: str
    # "/package.Service/Method".
    method: str
    # The serialized request of every run.
    request: bytes = b""
    # Five fields, "@daily" and the like, "@every 90s"; "": every_ms holds.
    cron: str = ""
    # 0: cron holds.
    every_ms: int = 0
    # Where every_ms counts from, since 1970.
    anchor_ms: int = 0
    # The time zone of cron; "" is UTC.
    timezone: str = ""
    # No run is before it; None: no bound.
    start_ms: int | None = None
    # No run is after it; None: no bound.
    end_ms: int | None = None
    # Each run is late by a share of this.
    jitter_ms: int = 0
    # While the run before is not finished.
    overlap: Overlap = Overlap.SKIP
    # After the scheduler was away.
    missed: Missed = Missed.ONCE
    # How far back missed runs count.
    catch_up_ms: int = WINDOW_MS
    # Priority of its tasks; None: the policy's.
    priority: int | None = None
    # Whether a contract declares it.
    managed: bool = False

    def same_times(self, other: "Schedule") -> bool:
        """Whether both run at the same times, so that what is past for one is for the other."""
        return _times(self) == _times(other)


@dataclass(frozen=True, slots=True)
class Fire:
    """A run that was decided on. It is written down before its task is submitted, so that a crash
    between the two repeats this very run and decides nothing anew.
    """

    # The time that it stands for.
    fire_ms: int
    # Why.
    cause: Cause = Cause.TIME
    # Tells triggers apart.
    request_id: str = ""
    # The task to cancel first; "": none.
    cancel: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose task was submitted."""

    fire_ms: int
    submit_ms: int
    task: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Backfill:
    """Past times that were asked for and are still to come: after the cursor, up to the end."""

    cursor_ms: int
    end_ms: int
    # How many there are.
    left: int


@dataclass(frozen=True, slots=True)
class State:
    """How it is with a schedule."""

    # When it was created, since 1970.
    create_ms: int
    # Times up to this one are decided on.
    cursor_ms: int
    # Decided on, not yet submitted.
    pending: tuple[Fire, ...] = ()
    # Waits for the end of the run before; None: nothing does.
    buffered_ms: int | None = None
    # Oldest first.
    backfills: tuple[Backfill, ...] = ()
    # The task of the run before; "": there was none, or it is known to have ended.
    last_task: str = ""
    # Whether runs by time are held.
    paused: bool = False
    # What was said to that.
    note: str = ""
    # Newest first.
    runs: tuple[Run, ...] = ()
    # Runs whose tasks were submitted.
    run_count: int = 0
    # Left out by the overlap policy.
    skipped: int = 0
    # Not made up for.
    missed: int = 0
    # Refused for good.
    refused: int = 0
    # Why the last one was refused; "": the last one was not.
    last_error: str = ""


def _times(schedule: Schedule) -> object:
    return (
        schedule.cron,
        schedule.every_ms,
        schedule.anchor_ms,
        schedule.timezone,
        schedule.start_ms,
        schedule.jitter_ms,
    )
