//! Calls of flows that may have diverged (SEMANTICS §10, the second rule).
//!
//! A call that matches no record, while recorded children were not asked for and no other child call of the run is
//! outstanding, is either a concurrent branch that came early or sequential code that is not repeatable. It is held for
//! a short while, and its session's submissions behind it: nothing is recorded, so a crash forgets it and the submitter
//! sends it again. Another call of the run shows that branches run concurrently, and lets it through. If none comes, it
//! is refused before its effect could happen.
//!
//! After a restart calls are held, too, whose run's worker has not come back: its submissions' stream may be faster
//! than its attempts'. They go through when it comes, or find that the lease is lost when it does not.

use super::super::Partition;
use super::run_of;
use crate::command::{Submit, SubmitOrigin};
use crate::ids::Millis;
use crate::live::alarms::Alarm;
use crate::live::held::{Held, RunKey, Why};
use crate::partition::Step;
use std::collections::{BTreeMap, VecDeque};

/// Submissions that wait behind a held one at most. With more, the wait ends as if its time were over.
const QUEUE_MAX: usize = 1024;

impl Partition {
    /// Runs of which a submission has a call that may have diverged.
    pub(super) fn doubtful_runs(
        &self,
        submit: &Submit,
        allowed: &[RunKey],
        now: Millis,
    ) -> Vec<RunKey> {
        let mut calls: BTreeMap<RunKey, (u32, usize)> = BTreeMap::new();
        for (index, task) in submit.tasks.iter().enumerate() {
            if let Some(run) = run_of(task) {
                calls.entry(run).or_insert((0, index)).0 += 1;
            }
        }
        let doubtful = |(run, (count, index)): (RunKey, (u32, usize))| {
            // Two calls in one submission are concurrent.
            let alone = count == 1 && !allowed.contains(&run);
            let doubtful =
                alone && self.has_unasked(run) && self.is_unrecorded(&submit.tasks[index], now);
            doubtful.then_some(run)
        };
        calls.into_iter().filter_map(doubtful).collect()
    }

    /// Whether a run has recorded children that it did not ask for, and no call outstanding.
    fn has_unasked(&self, run: RunKey) -> bool {
        let Some(slot) = self.running(run.0, run.1) else {
            return false;
        };
        match self.lease(slot).and_then(|lease| lease.run.as_ref()) {
            Some(run) => run.asked < run.recorded && run.outstanding == 0,
            None => self.state.tasks[slot]
                .family()
                .is_some_and(|family| family.count > 0),
        }
    }

    /// Runs of a submission whose leases are from before a restart and whose workers may still come back.
    pub(super) fn absent_runs(&self, submit: &Submit) -> Vec<RunKey> {
        if self.live.orphans.is_empty() {
            return Vec::new();
        }
        let runs = submit.tasks.iter().filter_map(run_of);
        runs.filter(|(task, token)| self.orphan(*task, *token).is_some())
            .collect()
    }

    pub(super) fn hold_call(
        &mut self,
        submit: Submit,
        (why, runs): (Why, Vec<RunKey>),
        allowed: Vec<RunKey>,
        now: Millis,
    ) {
        let session = match submit.origin {
            SubmitOrigin::Session { session, .. } => Some(session),
            SubmitOrigin::Call { .. } => None,
        };
        let held = Held {
            why,
            runs,
            allowed,
            session,
            queue: VecDeque::from([submit]),
        };
        let number = self.live.held.hold(held);
        let grace = match why {
            Why::Doubtful => self.config.divergence_grace_ms,
            Why::Absent => self.config.reattach_grace_ms,
        };
        let due = now.saturating_add(grace);
        self.live.alarms.set(due, Alarm::Held(number));
    }

    /// Lets held calls through of whose runs this submission has another call; tells those runs.
    pub(super) fn release_runs_of(
        &mut self,
        submit: &Submit,
        now: Millis,
        step: &mut Step,
    ) -> Vec<RunKey> {
        let mut released = Vec::new();
        if self.live.held.is_empty() {
            return released;
        }
        for run in submit.tasks.iter().filter_map(run_of) {
            if self.allow_run(run, now, step) {
                released.push(run);
            }
        }
        released
    }

    /// A run has another call under way: what is held of it goes through. Whether something was.
    pub(crate) fn allow_run(&mut self, run: RunKey, now: Millis, step: &mut Step) -> bool {
        let Some(number) = self.live.held.of_run(run) else {
            return false;
        };
        let Some(mut held) = self.live.held.take(number) else {
            return false;
        };
        held.allowed.push(run);
        self.resume(held, false, now, step);
        true
    }

    /// The time of a held call is over: it has diverged, or the lease of its run has ended.
    pub(crate) fn held_for_long(&mut self, number: u64, now: Millis, step: &mut Step) {
        if let Some(held) = self.live.held.take(number) {
            let refuse = held.why == Why::Doubtful;
            self.resume(held, refuse, now, step);
        }
    }

    /// Too much waits behind a held call.
    fn refuse_held(&mut self, number: u64, now: Millis, step: &mut Step) {
        if let Some(held) = self.live.held.take(number) {
            self.resume(held, true, now, step);
        }
    }

    fn resume(&mut self, held: Held, refuse: bool, now: Millis, step: &mut Step) {
        let Held {
            allowed,
            session,
            mut queue,
            ..
        } = held;
        if let Some(first) = queue.pop_front() {
            self.admit(first, allowed, refuse, now, step);
        }
        for submit in queue {
            // The stream may have been ended by the one before.
            let open = session.is_none_or(|own| self.live.streams.current(&own).is_some());
            match session.and_then(|own| self.live.held.of_session(&own)) {
                Some((_, held)) => held.queue.push_back(submit),
                None if open => self.admit(submit, Vec::new(), false, now, step),
                None => {}
            }
        }
    }

    /// Puts a submission behind the held one of its session. Gives it back if there is none.
    pub(super) fn queue_behind_held(
        &mut self,
        submit: Submit,
        now: Millis,
        step: &mut Step,
    ) -> Option<Submit> {
        let SubmitOrigin::Session { session, .. } = submit.origin else {
            return Some(submit);
        };
        let Some((number, held)) = self.live.held.of_session(&session) else {
            return Some(submit);
        };
        held.queue.push_back(submit);
        if held.queue.len() > QUEUE_MAX {
            self.refuse_held(number, now, step);
        }
        None
    }
}
