//! The reserve: workers with the same methods leave a quarter of their slots, and at least one, to each latency class
//! above that of an attempt, if they serve it.
//!
//! Counted is no more than what surely runs: attempts whose outcome was accepted, from their grant to that, on workers
//! that were there all the while. Flows that wait for their children do not count.

use super::{Class, Item, Known};
use crate::history::Lease;
use std::collections::{BTreeMap, BTreeSet};

/// Latency classes.
const CLASSES: usize = 3;

/// One slot in so many is left to each higher class.
const SHARE: u64 = 4;

#[derive(Debug, Default)]
pub(super) struct Slots<'a> {
    /// Attempts whose outcome was accepted, by token.
    accepted: BTreeSet<u64>,
    /// Tasks that had children.
    pub(super) flows: BTreeSet<u64>,
    /// Those of them that run.
    running: BTreeMap<u64, (&'a str, u8)>,
    /// By worker and latency class.
    counts: BTreeMap<&'a str, [u64; CLASSES]>,
    /// Workers that have, or may still have, a gate: they bring nothing.
    gated: BTreeSet<&'a str>,
}

impl<'a> Slots<'a> {
    pub(super) fn new<'t>(accepted: impl Iterator<Item = &'t u64>) -> Self {
        Self {
            accepted: accepted.copied().collect(),
            ..Self::default()
        }
    }

    /// Who runs what is not known any more.
    pub(super) fn after_crash(self) -> Self {
        Self {
            accepted: self.accepted,
            flows: self.flows,
            ..Self::default()
        }
    }

    /// A worker goes, or comes anew.
    pub(super) fn forget(&mut self, worker: &str) {
        self.counts.remove(worker);
        self.gated.remove(worker);
        self.running.retain(|_, (of, _)| *of != worker);
    }

    pub(super) fn gate(&mut self, worker: &'a str, set: bool) {
        if set {
            self.gated.insert(worker);
        } else {
            self.gated.remove(worker);
        }
    }

    pub(super) fn ends(&mut self, token: u64) {
        if let Some((worker, latency)) = self.running.remove(&token)
            && let Some(counts) = self.counts.get_mut(worker)
        {
            counts[usize::from(latency)] -= 1;
        }
    }

    /// An attempt begins on a worker of a class. What is wrong with it, if anything is.
    pub(super) fn begins(
        &mut self,
        known: &Known<'a>,
        class: &Class<'a>,
        (lease, item): (&'a Lease, &Item<'a>),
    ) -> Option<String> {
        let (worker, latency) = (&*lease.worker, item.rank.latency);
        let number = known.workers.get(worker)?.1;
        let peers = known.workers.iter().filter(|(_, (_, of))| *of == number);
        let mut running = [0; CLASSES];
        for (peer, _) in peers.filter(|(peer, _)| !self.gated.contains(*peer)) {
            let counts = self.counts.get(peer).copied().unwrap_or_default();
            (0..CLASSES).for_each(|at| running[at] += counts[at]);
        }
        if self.accepted.contains(&lease.token) && !self.flows.contains(&lease.task.0) {
            self.running.insert(lease.token, (worker, latency));
            self.counts.entry(worker).or_default()[usize::from(latency)] += 1;
        }
        if self.gated.contains(worker) {
            return None;
        }
        let served = |latency: u8| {
            class
                .methods
                .iter()
                .any(|(_, rank)| rank.latency == latency)
        };
        for level in latency..CLASSES as u8 {
            let higher = (level + 1..CLASSES as u8).filter(|above| served(*above));
            let kept = higher.count() as u64;
            let taken = 1 + running[..=usize::from(level)].iter().sum::<u64>();
            let most = most(class.slots, kept);
            if kept > 0 && taken > most {
                return Some(format!(
                    "{taken} of latency class {level} and below run, of {most} of {} slots",
                    class.slots
                ));
            }
        }
        None
    }
}

/// The most attempts that leave enough to so many higher classes. Windows may make fewer slots of them, of which more
/// may be used: where a whole number of quarters is passed.
fn most(slots: u64, higher: u64) -> u64 {
    let of = |slots: u64| slots.saturating_sub((slots / SHARE).max(1) * higher);
    (0..=slots).map(of).max().unwrap_or(0).max(1)
}
