"""What a schedule does now. Pure: (schedule, state, now, whether the run before goes on) -> state.

What is to be submitted is in the new state's `pending`, and each time is in it once: the cursor
moves with it. A clock that goes back finds its times decided on; one that jumps forward has missed
what lies between.
"""

from dataclasses import replace

from plait_scheduler.domain.schedule import (
    GRACE_MS,
    RUNS_KEPT,
    Backfill,
    Cause,
    Fire,
    Missed,
    Overlap,
    Run,
    Schedule,
    State,
)
from plait_scheduler.domain.schedule_times import Times, lag_ms

# Times looked at after an outage, and runs that it is made up for by.
CATCH_UP_MAX = 1000
# Runs of a back-fill that are submitted together.
BACKFILL_BATCH = 100
# How often the run before is looked at while another one waits for its end.
POLL_MS = 500


def needs_previous(schedule: Schedule, times: Times, state: State, now_ms: int) -> bool:
    """Whether the decision depends on whether the run before goes on."""
    if schedule.overlap is Overlap.ALLOW or not state.last_task or state.pending:
        return False
    waiting = state.buffered_ms is not None or bool(state.backfills)
    return waiting or (not state.paused and bool(_due(schedule, times, state, now_ms)[0]))


def decide(schedule: Schedule, times: Times, state: State, now_ms: int, *, busy: bool) -> State:
    """The state after what is due now. `busy`: the task of the run before is not finished. While
    runs are pending nothing is decided: what they come to is to be known first.
    """
    if state.pending:
        return state
    if not busy and state.buffered_ms is not None:
        return replace(state, pending=(Fire(state.buffered_ms),), buffered_ms=None)
    if not state.paused:
        state, busy = _by_time(schedule, times, state, now_ms, busy)
    if state.backfills and (schedule.overlap is Overlap.ALLOW or not busy):
        state = _backfill(schedule, times, state)
    return state


def wake_ms(schedule: Schedule, times: Times, state: State, now_ms: int) -> int | None:
    """When to decide again; None: not before something changes."""
    if state.pending:
        return now_ms
    if state.buffered_ms is not None or state.backfills:
        return now_ms + POLL_MS
    upcoming = next_runs(schedule, times, state, 1)
    return upcoming[0] if upcoming else None


def next_runs(schedule: Schedule, times: Times, state: State, count: int) -> list[int]:
    """When the next runs by time start, jitter included."""
    found: list[int] = []
    if state.paused:
        return found
    fire = times.after(_from(schedule, state))
    while fire is not None and len(found) < count:
        if schedule.end_ms is not None and fire > schedule.end_ms:
            break
        following = times.after(fire)
        found.append(fire + lag_ms(schedule.name, fire, following, schedule.jitter_ms))
        fire = following
    return found


def submitted(state: State, fire: Fire, task: str, now_ms: int) -> State:
    """The task of a pending run is accepted."""
    run = Run(fire.fire_ms, now_ms, task, fire.cause)
    return replace(
        state,
        pending=tuple(each for each in state.pending if each != fire),
        last_task=task,
        runs=(run, *state.runs)[:RUNS_KEPT],
        run_count=state.run_count + 1,
        last_error="",
    )


def refused(state: State, fire: Fire, why: str) -> State:
    """The task of a pending run is refused for good."""
    pending = tuple(each for each in state.pending if each != fire)
    return replace(state, pending=pending, refused=state.refused + 1, last_error=why)


def paused(state: State, note: str) -> State:
    """No more runs by time; one that waits for the end of another is left out."""
    skipped = state.skipped + (state.buffered_ms is not None)
    return replace(state, paused=True, note=note, buffered_ms=None, skipped=skipped)


def resumed(state: State, note: str, now_ms: int) -> State:
    """Runs by time again, from now on."""
    cursor = max(state.cursor_ms, now_ms) if state.paused else state.cursor_ms
    return replace(state, paused=False, note=note, cursor_ms=cursor)


def changed(before: Schedule, after: Schedule, state: State, now_ms: int) -> State:
    """The state under another declaration: other times count from now."""
    return state if before.same_times(after) else replace(state, cursor_ms=now_ms)


def _from(schedule: Schedule, state: State) -> int:
    """Times after this one are still to be decided on."""
    if schedule.start_ms is None:
        return state.cursor_ms
    return max(state.cursor_ms, schedule.start_ms - 1)


def _due(schedule: Schedule, times: Times, state: State, now_ms: int) -> tuple[list[int], int]:
    """Times that have come and are not decided on, the latest ones, and how many of them are
    older than the window, as far as they were looked at.
    """
    until = now_ms if schedule.end_ms is None else min(now_ms, schedule.end_ms)
    since = _from(schedule, state)
    if since >= until:
        return [], 0
    fires = times.latest(since, until, CATCH_UP_MAX)
    if not fires:
        return [], 0
    # Only the last may be late on purpose: the lag of a run ends before the next time.
    following = times.after(fires[-1])
    if fires[-1] + lag_ms(schedule.name, fires[-1], following, schedule.jitter_ms) > now_ms:
        fires.pop()
    kept = [fire for fire in fires if fire >= now_ms - schedule.catch_up_ms]
    return kept, len(fires) - len(kept)


def _by_time(
    schedule: Schedule, times: Times, state: State, now_ms: int, busy: bool
) -> tuple[State, bool]:
    """What is due by time, and whether a run goes on then."""
    due, too_old = _due(schedule, times, state, now_ms)
    if too_old and not due:
        skipped_to = max(state.cursor_ms, now_ms - schedule.catch_up_ms - 1)
        return replace(state, cursor_ms=skipped_to, missed=state.missed + too_old), busy
    if not due:
        return state, busy
    chosen = _made_up_for(schedule, times, due, now_ms)
    missed = state.missed + too_old + len(due) - len(chosen)
    state = replace(state, cursor_ms=due[-1], missed=missed)
    return _overlapping(schedule, state, chosen, busy)


def _made_up_for(schedule: Schedule, times: Times, due: list[int], now_ms: int) -> list[int]:
    """The runs that are due by the policy for missed ones."""

    def late(fire: int, following: int | None) -> bool:
        lag = lag_ms(schedule.name, fire, following, schedule.jitter_ms)
        return now_ms - fire - lag > GRACE_MS

    first_late = late(due[0], due[1] if len(due) > 1 else times.after(due[0]))
    if schedule.missed is Missed.ALL or not first_late:
        return due
    if schedule.missed is Missed.SKIP and late(due[-1], times.after(due[-1])):
        return []
    return due[-1:]


def _overlapping(
    schedule: Schedule, state: State, chosen: list[int], busy: bool
) -> tuple[State, bool]:
    """Applies the overlap policy to runs that are due."""
    if not chosen:
        return state, busy
    if schedule.overlap is Overlap.ALLOW:
        return replace(state, pending=tuple(map(Fire, chosen))), True
    if schedule.overlap is Overlap.CANCEL_PREVIOUS:
        # The others would be cancelled at once.
        fire = Fire(chosen[-1], cancel=state.last_task if busy else "")
        skipped = state.skipped + len(chosen) - 1
        return replace(state, pending=(fire,), skipped=skipped), True
    pending = () if busy else (Fire(chosen[0]),)
    left = chosen if busy else chosen[1:]
    buffered = state.buffered_ms
    if left and schedule.overlap is Overlap.BUFFER_ONE and buffered is None:
        buffered, left = left[0], left[1:]
    skipped = state.skipped + len(left)
    return replace(state, pending=pending, buffered_ms=buffered, skipped=skipped), True


def _backfill(schedule: Schedule, times: Times, state: State) -> State:
    """The next runs of a back-fill: one, or many where runs may overlap."""
    first, *others = state.backfills
    most = BACKFILL_BATCH if schedule.overlap is Overlap.ALLOW else 1
    fires: list[int] = []
    cursor = first.cursor_ms
    while len(fires) < most:
        fire = times.after(cursor)
        if fire is None or fire > first.end_ms:
            break
        cursor = fire
        fires.append(fire)
    rest = replace(first, cursor_ms=cursor, left=first.left - len(fires))
    left = (rest, *others) if len(fires) == most else tuple(others)
    pending = (*state.pending, *(Fire(fire, Cause.BACKFILL) for fire in fires))
    return replace(state, backfills=left, pending=pending)


def backfill_of(
    schedule: Schedule, times: Times, start_ms: int, end_ms: int, most: int
) -> Backfill:
    """The times from start to end, both included, as far as the schedule has any. At most so many
    are counted.
    """
    low = start_ms if schedule.start_ms is None else max(start_ms, schedule.start_ms)
    high = end_ms if schedule.end_ms is None else min(end_ms, schedule.end_ms)
    if high < low:
        return Backfill(low - 1, low - 1, 0)
    return Backfill(low - 1, high, len(times.latest(low - 1, high, most)))


def asked(state: State, backfill: Backfill) -> State:
    """The state with one back-fill more, after those that are under way."""
    return replace(state, backfills=(*state.backfills, backfill))
