//! Who may be given attempts, and how many: workers that are there and do not drain, and gates of methods and workers.
//! A simulated broker tells all of it in the order in which it takes it, so what is found here is exact.

use super::{Checker, Invariant};
use crate::history::{self, Joined, Lease, Method};

/// A worker that may be given attempts.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    pub(super) joined: &'a Joined,
    gate: Option<Gate>,
}

/// Attempts that may begin until a reading of the broker's clock.
#[derive(Debug)]
pub(super) struct Gate {
    left: u64,
    until: u64,
}

impl Gate {
    fn of(gate: &history::Gate) -> Option<Self> {
        let until = gate.broker_at.saturating_add(gate.valid_ms);
        let left = gate.permits?;
        Some(Self { left, until })
    }

    /// Takes in a start. Whether it was allowed; a gate whose time is over may last on, for timers may be late.
    fn take(&mut self, at: u64) -> bool {
        let allowed = self.left > 0 || at >= self.until;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl Worker<'_> {
    pub(super) fn serves(&self, method: &str) -> bool {
        self.joined.methods.iter().any(|own| **own == *method)
    }
}

impl<'a> Checker<'a> {
    pub(super) fn worker_on(&mut self, joined: &'a Joined) {
        self.steered = true;
        let worker = Worker { joined, gate: None };
        self.workers.insert(&joined.worker, worker);
        self.look_at_sides(joined.broker_at);
    }

    pub(super) fn worker_off(&mut self, conn: u64, at: u64) {
        self.workers.retain(|_, worker| worker.joined.conn != conn);
        self.look_at_sides(at);
    }

    pub(super) fn method_gate(&mut self, gate: &'a history::Gate) {
        match Gate::of(gate) {
            Some(set) => drop(self.gates.insert(&gate.of, set)),
            None => drop(self.gates.remove(&*gate.of)),
        }
    }

    pub(super) fn worker_gate(&mut self, gate: &history::Gate) {
        if let Some(worker) = self.workers.get_mut(&*gate.of) {
            worker.gate = Gate::of(gate);
        }
    }

    /// The broker's process ended, and with it what only it knew.
    pub(super) fn broker_gone(&mut self) {
        self.workers.clear();
        self.gates.clear();
        self.splits_unsure();
    }

    /// An attempt goes to somebody who may have it.
    pub(super) fn check_gates(&mut self, lease: &'a Lease, method: &'a Method) {
        let Some(at) = lease.broker_at.filter(|_| self.steered) else {
            return;
        };
        let task = lease.task;
        let worker = self.workers.get_mut(&*lease.worker);
        let here = worker.is_some();
        let gate = worker.and_then(|worker| worker.gate.as_mut());
        let worker_allows = gate.is_none_or(|gate| gate.take(at));
        let gate = self.gates.get_mut(&*method.method);
        let method_allows = gate.is_none_or(|gate| gate.take(at));
        self.ensure(Invariant::Gated, here, || {
            format!("{task:?} goes to {}, which is gone or drains", lease.worker)
        });
        self.ensure(Invariant::Gated, worker_allows, || {
            format!("{task:?} goes to {} under its gate", lease.worker)
        });
        self.ensure(Invariant::Gated, method_allows, || {
            format!("{task:?} starts under the gate of {}", method.method)
        });
    }
}
