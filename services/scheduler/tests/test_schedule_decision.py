"""What a schedule does: by policy, and over years of a virtual clock that is set and set back."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plait_scheduler.domain.schedule import (
    GRACE_MS,
    Backfill,
    Cause,
    Fire,
    Missed,
    Overlap,
    Schedule,
    State,
)
from plait_scheduler.domain.schedule_decision import (
    BACKFILL_BATCH,
    CATCH_UP_MAX,
    asked,
    backfill_of,
    changed,
    decide,
    needs_previous,
    next_runs,
    paused,
    refused,
    resumed,
    submitted,
    wake_ms,
)
from plait_scheduler.domain.schedule_times import IntervalTimes, Times, parse_times
from plait_scheduler.domain.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

HOURLY = IntervalTimes(HOUR_MS)
# A whole hour.
START = 1_000_000 * HOUR_MS


def schedule(**said: Any) -> Schedule:
    return replace(Schedule("tidy", "/shop.v1.Orders/Tidy", every_ms=HOUR_MS), **said)


def state(**said: Any) -> State:
    return replace(State(START, START), **said)


def fires(after: State) -> list[int]:
    """Hours after the start that are to run."""
    return [(fire.fire_ms - START) // HOUR_MS for fire in after.pending]


class TestTimes:
    def test_nothing_runs_before_its_time(self):
        assert decide(schedule(), HOURLY, state(), START + HOUR_MS - 1, busy=False) == state()
        assert wake_ms(schedule(), HOURLY, state(), START) == START + HOUR_MS

    def test_a_time_that_has_come_runs_and_is_decided_on(self):
        after = decide(schedule(), HOURLY, state(), START + HOUR_MS, busy=False)
        assert fires(after) == [1]
        assert after.cursor_ms == START + HOUR_MS
        done = submitted(after, after.pending[0], "t1", START + HOUR_MS)
        assert (done.pending, done.last_task, done.run_count) == ((), "t1", 1)
        assert decide(schedule(), HOURLY, done, START + HOUR_MS, busy=False) == done

    def test_bounds_are_included(self):
        bounded = schedule(
            start_ms=START + 2 * HOUR_MS,
            end_ms=START + 3 * HOUR_MS,
            missed=Missed.ALL,
            overlap=Overlap.ALLOW,
        )
        after = decide(bounded, HOURLY, state(), START + 9 * HOUR_MS, busy=False)
        assert fires(after) == [2, 3]
        assert wake_ms(bounded, HOURLY, replace(after, pending=()), START + 9 * HOUR_MS) is None

    def test_jitter_delays_a_run_by_the_same_share_each_time(self):
        late = schedule(jitter_ms=30 * MINUTE_MS)
        (due,) = next_runs(late, HOURLY, state(), 1)
        assert START + HOUR_MS <= due < START + HOUR_MS + 30 * MINUTE_MS
        assert not decide(late, HOURLY, state(), due - 1, busy=False).pending
        assert fires(decide(late, HOURLY, state(), due, busy=False)) == [1]

    def test_a_clock_that_goes_back_repeats_nothing(self):
        after = replace(state(), cursor_ms=START + 5 * HOUR_MS)
        assert decide(schedule(), HOURLY, after, START + 2 * HOUR_MS, busy=False) == after
        assert next_runs(schedule(), HOURLY, after, 1) == [START + 6 * HOUR_MS]

    def test_other_times_count_from_now(self):
        other = schedule(every_ms=MINUTE_MS)
        assert changed(schedule(), other, state(), START + DAY_MS).cursor_ms == START + DAY_MS
        same = schedule(overlap=Overlap.ALLOW)
        assert changed(schedule(), same, state(), START + DAY_MS) == state()


class TestMissed:
    NOW = START + 10 * HOUR_MS + 30 * MINUTE_MS

    def test_once_runs_the_latest(self):
        after = decide(schedule(), HOURLY, state(), self.NOW, busy=False)
        assert fires(after) == [10]
        assert after.missed == 9

    def test_skip_runs_none(self):
        after = decide(schedule(missed=Missed.SKIP), HOURLY, state(), self.NOW, busy=False)
        assert (fires(after), after.missed) == ([], 10)
        assert after.cursor_ms == START + 10 * HOUR_MS

    def test_skip_runs_what_is_on_time_after_an_outage(self):
        now = START + 10 * HOUR_MS + GRACE_MS
        after = decide(schedule(missed=Missed.SKIP), HOURLY, state(), now, busy=False)
        assert (fires(after), after.missed) == ([10], 9)

    def test_all_runs_all_within_the_window(self):
        every = schedule(missed=Missed.ALL, overlap=Overlap.ALLOW, catch_up_ms=3 * HOUR_MS)
        after = decide(every, HOURLY, state(), self.NOW, busy=False)
        assert (fires(after), after.missed) == ([8, 9, 10], 7)

    def test_all_is_bounded(self):
        every = schedule(missed=Missed.ALL, overlap=Overlap.ALLOW, every_ms=SECOND_MS)
        after = decide(every, IntervalTimes(SECOND_MS), state(), START + DAY_MS, busy=False)
        assert len(after.pending) == CATCH_UP_MAX
        assert after.pending[-1].fire_ms == START + DAY_MS

    def test_a_restart_misses_nothing_whatever_the_policy(self):
        often = schedule(every_ms=SECOND_MS, missed=Missed.SKIP, overlap=Overlap.ALLOW)
        after = decide(often, IntervalTimes(SECOND_MS), state(), START + GRACE_MS, busy=False)
        assert (len(after.pending), after.missed) == (10, 0)

    def test_what_is_older_than_the_window_is_told(self):
        old = schedule(catch_up_ms=HOUR_MS)
        yearly = parse_times("0 0 1 1 *", 0, 0, "")
        now = START + 400 * DAY_MS
        after = decide(old, yearly, state(), now, busy=False)
        assert (after.pending, after.missed) == ((), 1)
        assert decide(old, yearly, after, now, busy=False) == after


class TestOverlap:
    NOW = START + HOUR_MS

    def decided(self, overlap: Overlap, *, busy: bool, **said: Any) -> State:
        before = state(last_task="t1", **said)
        one = schedule(overlap=overlap)
        assert needs_previous(one, HOURLY, before, self.NOW) == (overlap is not Overlap.ALLOW)
        return decide(one, HOURLY, before, self.NOW, busy=busy)

    def test_skip_leaves_it_out(self):
        after = self.decided(Overlap.SKIP, busy=True)
        assert (fires(after), after.skipped, after.cursor_ms) == ([], 1, self.NOW)
        assert fires(self.decided(Overlap.SKIP, busy=False)) == [1]

    def test_allow_runs_both(self):
        assert fires(self.decided(Overlap.ALLOW, busy=True)) == [1]

    def test_buffer_one_waits_for_the_end(self):
        after = self.decided(Overlap.BUFFER_ONE, busy=True)
        assert (fires(after), after.buffered_ms) == ([], self.NOW)
        one = schedule(overlap=Overlap.BUFFER_ONE)
        waiting = decide(one, HOURLY, after, self.NOW + HOUR_MS, busy=True)
        assert (waiting.buffered_ms, waiting.skipped) == (self.NOW, 1)
        ended = decide(one, HOURLY, waiting, self.NOW + HOUR_MS + 1, busy=False)
        assert (fires(ended), ended.buffered_ms) == ([1], None)

    def test_cancel_previous_does(self):
        after = self.decided(Overlap.CANCEL_PREVIOUS, busy=True)
        assert after.pending == (Fire(self.NOW, cancel="t1"),)
        assert not self.decided(Overlap.CANCEL_PREVIOUS, busy=False).pending[0].cancel

    def test_nothing_is_decided_while_a_run_is_pending(self):
        before = state(pending=(Fire(START),))
        assert decide(schedule(), HOURLY, before, self.NOW, busy=False) == before


class TestPause:
    def test_what_passes_is_not_made_up_for(self):
        held = paused(state(buffered_ms=START), "night")
        assert (held.paused, held.note, held.buffered_ms, held.skipped) == (True, "night", None, 1)
        now = START + 5 * HOUR_MS
        assert decide(schedule(), HOURLY, held, now, busy=False) == held
        assert next_runs(schedule(), HOURLY, held, 3) == []
        on = resumed(held, "", now)
        assert decide(schedule(missed=Missed.ALL), HOURLY, on, now, busy=False) == on
        assert next_runs(schedule(), HOURLY, on, 1) == [now + HOUR_MS]

    def test_to_resume_what_runs_changes_no_time(self):
        assert resumed(state(), "fine", START + DAY_MS) == state(note="fine")


class TestBackfill:
    def test_runs_one_after_the_other(self):
        one = schedule()
        before = asked(state(), backfill_of(one, HOURLY, START, START + 2 * HOUR_MS, 10))
        assert before.backfills == (Backfill(START - 1, START + 2 * HOUR_MS, 3),)
        seen = []
        for number in range(3):
            before = decide(one, HOURLY, before, START, busy=False)
            (fire,) = before.pending
            assert fire.cause is Cause.BACKFILL
            seen.append(fire.fire_ms)
            before = submitted(before, fire, f"t{number}", START)
            assert decide(one, HOURLY, before, START, busy=True).pending == ()
        assert seen == [START, START + HOUR_MS, START + 2 * HOUR_MS]
        assert decide(one, HOURLY, before, START, busy=False).backfills == ()

    def test_runs_at_once_where_runs_may_overlap(self):
        one = schedule(overlap=Overlap.ALLOW)
        asked_for = backfill_of(one, HOURLY, START, START + 149 * HOUR_MS, 1000)
        first = decide(one, HOURLY, asked(state(), asked_for), START, busy=False)
        assert len(first.pending) == BACKFILL_BATCH
        second = decide(one, HOURLY, replace(first, pending=()), START, busy=False)
        assert len(second.pending) == asked_for.left - BACKFILL_BATCH == 50
        assert second.backfills == ()

    def test_bounds_of_the_schedule_hold(self):
        bounded = schedule(start_ms=START + HOUR_MS, end_ms=START + 2 * HOUR_MS)
        assert backfill_of(bounded, HOURLY, START, START + DAY_MS, 10).left == 2
        assert backfill_of(bounded, HOURLY, START + 9 * HOUR_MS, START + DAY_MS, 10).left == 0


def test_a_refusal_is_told():
    before = state(pending=(Fire(START), Fire(START + 1)))
    after = refused(before, Fire(START), "no such method")
    assert (after.pending, after.refused) == ((Fire(START + 1),), 1)
    assert after.last_error == "no such method"
    assert submitted(after, Fire(START + 1), "t1", START).last_error == ""


TIMES = (
    ("every minute", "* * * * *", "Europe/Berlin"),
    ("nightly", "30 2 * * *", "Europe/Berlin"),
    ("weekdays", "0 9,17 * * 1-5", "America/New_York"),
    ("monthly", "15 4 L * *", "Australia/Lord_Howe"),
)


class Life(RuleBasedStateMachine):
    """A schedule's life: time passes, jumps and goes back; schedulers die between any two steps,
    and two decide at once; tasks end when they like.
    """

    @initialize(
        times=st.sampled_from(TIMES),
        overlap=st.sampled_from(Overlap),
        missed=st.sampled_from(Missed),
        jitter_ms=st.sampled_from([0, 45_000, HOUR_MS]),
        start=st.integers(0, 365 * 24 * 60),
    )
    def create(
        self,
        times: tuple[str, str, str],
        overlap: Overlap,
        missed: Missed,
        jitter_ms: int,
        start: int,
    ) -> None:
        _, cron, zone = times
        self.now = 1_700_000_000_000 + start * MINUTE_MS
        self.latest = self.now
        self.times: Times = parse_times(cron, 0, 0, zone)
        self.schedule = Schedule(
            "s",
            "/a.B/C",
            cron=cron,
            timezone=zone,
            overlap=overlap,
            missed=missed,
            jitter_ms=jitter_ms,
        )
        self.state = State(self.now, self.now)
        # The broker: tasks by their key, and those that are not finished.
        self.tasks: dict[int, str] = {}
        self.unfinished: set[str] = set()
        self.overlapped = False

    @rule(step_ms=st.integers(1, 3 * DAY_MS) | st.integers(1, 90_000))
    def time_passes(self, step_ms: int) -> None:
        self.now += step_ms
        self.latest = max(self.latest, self.now)

    @rule(step_ms=st.integers(1, 400 * DAY_MS))
    def clock_goes_back(self, step_ms: int) -> None:
        self.now -= step_ms

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def task_ends(self, data: st.DataObject) -> None:
        self.unfinished.discard(data.draw(st.sampled_from(sorted(self.unfinished))))

    @rule(times=st.integers(1, 3))
    def is_decided_on(self, times: int) -> None:
        """By one scheduler, or by several from what they have read: the first swap wins."""
        before = self.state
        needed = needs_previous(self.schedule, self.times, before, self.now)
        busy = needed and before.last_task in self.unfinished
        decisions = {
            decide(self.schedule, self.times, before, self.now, busy=busy) for _ in range(times)
        }
        (self.state,) = decisions
        new = [each for each in self.state.pending if each not in before.pending]
        if new and self.schedule.overlap is not Overlap.ALLOW:
            assert len(new) == 1
            alone = before.last_task not in self.unfinished or new[0].cancel == before.last_task
            assert alone

    @precondition(lambda self: self.state.pending)
    @rule(recorded=st.booleans())
    def is_submitted(self, recorded: bool) -> None:
        """The scheduler may die before it has recorded it."""
        for fire in self.state.pending:
            self.unfinished.discard(fire.cancel)
            if fire.fire_ms not in self.tasks:
                task = f"t{len(self.tasks)}"
                self.tasks[fire.fire_ms] = task
                self.unfinished.add(task)
            if recorded:
                self.state = submitted(self.state, fire, self.tasks[fire.fire_ms], self.now)

    @invariant()
    def every_task_is_of_a_time_that_has_come(self) -> None:
        for fire_ms in self.tasks:
            assert self.times.after(fire_ms - 1) == fire_ms
            assert self.state.create_ms < fire_ms <= self.latest

    @invariant()
    def every_time_is_accounted_for_once(self) -> None:
        passed = self.times.latest(self.state.create_ms, self.state.cursor_ms, 1_000_000)
        runs = self.state.run_count + len(self.state.pending)
        runs += self.state.buffered_ms is not None
        told = runs + self.state.skipped + self.state.missed
        # An outage of over a thousand times is counted as one of a thousand.
        assert told == len(passed) or (told < len(passed) and len(passed) > CATCH_UP_MAX)
        if self.schedule.missed is Missed.ALL and len(passed) <= CATCH_UP_MAX:
            assert self.state.missed == 0

    @invariant()
    def it_wakes_for_the_next_time(self) -> None:
        wake = wake_ms(self.schedule, self.times, self.state, self.now)
        assert wake is not None
        if not self.state.pending and self.state.buffered_ms is None:
            fire = self.times.after(self.state.cursor_ms)
            assert fire is not None
            assert fire <= wake <= fire + self.schedule.jitter_ms


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


@pytest.mark.parametrize("overlap", list(Overlap))
def test_a_year_by_wakes_alone_runs_every_time_once(overlap: Overlap):
    """Woken when it asks to be, with tasks that end at once: nothing is left out."""
    nightly = parse_times("30 2 * * *", 0, 0, "Europe/Berlin")
    one = Schedule("s", "/a.B/C", cron="30 2 * * *", timezone="Europe/Berlin", overlap=overlap)
    now = 1_767_225_600_000
    end = now + 365 * DAY_MS
    current = State(now, now)
    ran = []
    while now <= end:
        current = decide(one, nightly, current, now, busy=False)
        for fire in current.pending:
            ran.append(fire.fire_ms)
            current = submitted(current, fire, f"t{len(ran)}", now)
        upcoming = wake_ms(one, nightly, current, now)
        assert upcoming is not None
        assert upcoming > now
        now = upcoming
    assert ran == nightly.latest(1_767_225_600_000, end, 1000)
    assert len(ran) == 365
