//! Splits: a task goes to the version that its hash says, or to the other side where that one is away.
//!
//! The hash is written here once more, from its description and not from the broker's code.

use super::task::Facts;
use super::{Checker, Invariant};
use crate::history::{Lease, Method, Split, Sticky, Submission, Task};
use std::collections::BTreeMap;

/// Shares are of so many.
const WHOLE: u64 = 10_000;

/// Splits as far as they are known.
#[derive(Debug)]
pub(super) struct Splits<'a> {
    /// Those in force; None: nobody can say.
    list: Option<&'a [Split]>,
    /// Words to the broker whose end was not told.
    invoked: u64,
    /// Of every method that is split: who of the others was there.
    others: BTreeMap<&'a str, Others>,
}

/// Workers of the other versions, of one method.
#[derive(Debug, Clone, Copy, Default)]
struct Others {
    /// Since when there is none, on the broker's clock.
    left_at: Option<u64>,
    /// One was there since the version was split off, in this life of the broker.
    known: bool,
    /// They were away for long enough.
    alone: bool,
}

impl Default for Splits<'_> {
    fn default() -> Self {
        Self {
            list: Some(&[]),
            invoked: 0,
            others: BTreeMap::new(),
        }
    }
}

impl Split {
    fn covers(&self, method: &str) -> bool {
        let path = method.strip_prefix('/').unwrap_or_default();
        let service = path.split('/').next().unwrap_or_default();
        *service == *self.service
    }

    /// Whether the version's share has a key.
    fn has(&self, key: &[u8]) -> bool {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in self.salt.bytes().chain(key.iter().copied()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        for (shift, factor) in [
            (30, 0xbf58_476d_1ce4_e5b9),
            (27, 0x94d0_49bb_1331_11eb),
            (31, 1),
        ] {
            hash = (hash ^ (hash >> shift)).wrapping_mul(factor);
        }
        ((hash >> 32) * WHOLE) >> 32 < self.share
    }
}

impl<'a> Checker<'a> {
    pub(super) fn splits_invoked(&mut self) {
        self.splits.invoked += 1;
    }

    pub(super) fn splits_set(&mut self, splits: &'a [Split], at: u64) {
        let before = self.splits.list.replace(splits);
        self.splits.invoked = self.splits.invoked.saturating_sub(1);
        let old = std::mem::take(&mut self.splits.others);
        let methods: Vec<&'a str> = self.methods.keys().copied().collect();
        for method in methods {
            let Some(split) = splits.iter().find(|split| split.covers(method)) else {
                continue;
            };
            let earlier = before.and_then(|list| list.iter().find(|other| other.covers(method)));
            let same = earlier.filter(|earlier| earlier.version == split.version);
            // What was in force before may have been the same, and the others away since then.
            let mut others = Others {
                alone: before.is_none(),
                ..Others::default()
            };
            if let Some((earlier, known)) = same.zip(old.get(method)) {
                others = *known;
                let away = known.left_at.map(|left| at.saturating_sub(left));
                others.alone |= away.is_some_and(|away| away >= earlier.fallback_ms);
            }
            self.splits.others.insert(method, others);
        }
        self.look_at_sides(at);
    }

    /// The broker's process ended: it goes on with what is durable, and knows nobody.
    pub(super) fn splits_unsure(&mut self) {
        if self.splits.invoked > 0 {
            (self.splits.list, self.splits.invoked) = (None, 0);
        }
        let others = self.splits.others.values_mut();
        others.for_each(|others| *others = Others::default());
    }

    /// Sees who of the others is there.
    pub(super) fn look_at_sides(&mut self, at: u64) {
        let Some(list) = self.splits.list else { return };
        for (method, others) in &mut self.splits.others {
            let Some(split) = list.iter().find(|split| split.covers(method)) else {
                continue;
            };
            let mut workers = self.workers.values();
            if workers.any(|w| w.serves(method) && w.joined.version != split.version) {
                (others.left_at, others.known, others.alone) = (None, true, false);
            } else {
                others.left_at.get_or_insert(at);
            }
        }
    }

    /// A task goes to the side that it is of, or that one is away.
    pub(super) fn check_split(
        &mut self,
        lease: &'a Lease,
        submission: &'a Submission,
        method: &'a Method,
    ) {
        let splits = self.splits.list.unwrap_or_default();
        let Some(split) = splits.iter().find(|split| split.covers(&method.method)) else {
            return;
        };
        let Some((worker, at)) = self.workers.get(&*lease.worker).zip(lease.broker_at) else {
            return;
        };
        let others = self.splits.others.get(&*method.method).copied();
        let others = others.unwrap_or_default();
        let Some(of_version) = self.is_of_version(split, lease.task, submission) else {
            return;
        };
        let to_version = worker.joined.version == split.version;
        let allowed = match (of_version, to_version) {
            (true, true) | (false, false) => true,
            (true, false) => !self
                .workers
                .values()
                .any(|w| w.serves(&method.method) && w.joined.version == split.version),
            (false, true) => {
                let waited = others.left_at.map(|left| at.saturating_sub(left));
                let alone = waited.is_some_and(|ms| others.alone || ms >= split.fallback_ms);
                alone && (split.share > 0 || !others.known)
            }
        };
        self.ensure(Invariant::Divided, allowed, || {
            let (task, name) = (lease.task, &lease.worker);
            format!("{task:?} goes to {name}, and is for the other side of {split:?}: {others:?}")
        });
    }

    /// Whether a task is the version's; None where the flow at its root is not known for certain.
    fn is_of_version(&self, split: &Split, task: Task, submission: &Submission) -> Option<bool> {
        let key = match split.sticky {
            Sticky::Task => None,
            Sticky::OrderingKey => submission.order.as_ref(),
            Sticky::IdempotencyKey => submission.key.as_ref(),
            Sticky::LimitKey => submission.limit.as_ref(),
        };
        if let Some(key) = key {
            return Some(split.has(key.as_bytes()));
        }
        let root = match &submission.parent {
            None => task.0,
            // A flow that is run again disowns children, and a flow in a flow may have been forgotten.
            Some((flow, _)) => {
                let facts: &Facts<'_> = self.tasks.get(&flow.0)?;
                let of_flow = self.submission_of(facts)?;
                let again = self.redriven.contains(&flow.0) || self.redriven.contains(&task.0);
                (of_flow.parent.is_none() && !again).then_some(flow.0)?
            }
        };
        Some(split.has(&root.to_le_bytes()))
    }
}
