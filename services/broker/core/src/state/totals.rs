//! Sums of a method since the process began. They are for metrics, and nothing is decided by them.

use super::methods::{Methods, Tally};
use super::task::Task;
use crate::effect::TaskState;
use crate::ids::Millis;
use crate::metrics::{FINAL, LeaseEnd, Spans};

/// What a method, or one route of it, did so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// What figures took.
    pub(crate) taken: Tally,
    pub(crate) ended: [u64; FINAL.len()],
    pub(crate) leases_expired: [u64; LeaseEnd::ALL.len()],
    pub(crate) waits: Spans,
    pub(crate) durations: Spans,
}

impl Totals {
    /// Counts what another route of the method counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.taken.add(&other.taken);
        let ended = self.ended.iter_mut().zip(other.ended);
        let expired = self.leases_expired.iter_mut().zip(other.leases_expired);
        for (sum, count) in ended.chain(expired) {
            *sum += count;
        }
        self.waits.add(&other.waits);
        self.durations.add(&other.durations);
    }
}

impl Methods {
    /// A task of the method ended.
    pub(super) fn count_end(&mut self, task: &Task, state: TaskState, at: Millis) {
        let totals = &mut self.methods[task.method as usize].totals;
        if let Some(place) = (state as usize).checked_sub(FINAL[0] as usize) {
            totals.ended[place] += 1;
        }
        totals.durations.count(at.saturating_sub(task.created_at));
    }

    /// A task of the method starts for the first time.
    pub(super) fn count_wait(&mut self, task: &Task, at: Millis) {
        let since = task.created_at.max(task.start_at);
        let totals = &mut self.methods[task.method as usize].totals;
        totals.waits.count(at.saturating_sub(since));
    }

    /// The lease of an attempt of the method ended without an outcome.
    pub(crate) fn count_lease_end(&mut self, number: u32, why: LeaseEnd) {
        self.methods[number as usize].totals.leases_expired[why as usize] += 1;
    }

    /// What replay counted was told by the process that did it.
    pub(crate) fn count_anew(&mut self) {
        for method in &mut self.methods {
            method.tally = Tally::default();
            method.totals = Totals::default();
        }
    }

    /// The sums of a method, all its routes together.
    pub(crate) fn totals(&self, family: u32) -> Totals {
        let mut sum = Totals::default();
        for route in self.routes(family) {
            let method = self.get(*route);
            sum.add(&method.totals);
            sum.taken.add(&method.tally);
        }
        sum
    }
}
