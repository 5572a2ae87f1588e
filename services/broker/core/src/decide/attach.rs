//! Workers come, go, and come again.

use super::failure;
use super::outcome::FailedBy;
use crate::command::WorkerAttach;
use crate::effect::{Effect, Error};
use crate::ids::{ConnId, Millis, TaskId, Token};
use crate::live::alarms::Alarm;
use crate::live::workers::{self, Worker};
use crate::metrics::LeaseEnd;
use crate::partition::{LOST_MAX, LOST_TASKS_MAX, LostAttempts, Partition, Step};
use crate::record::{Reason, Record, ReturnCause};
use crate::state::leases::Lease;
use crate::state::slab::NONE;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Leases that are ended in one step when their workers did not come back: bounds the pause.
const ORPHANS_MAX: usize = 1024;

impl Partition {
    pub(super) fn worker_attached(&mut self, attach: WorkerAttach, now: Millis, step: &mut Step) {
        let conn = attach.conn;
        match self.methods_of(&attach) {
            Ok(numbers) => self.attach(attach, &numbers, now, step),
            Err(error) => step.effects.push(Effect::WorkerClosed { conn, error }),
        }
    }

    fn methods_of(&self, attach: &WorkerAttach) -> Result<Vec<u32>, Error> {
        let invalid = |field, problem: &str| {
            Err(Error::Invalid {
                field,
                problem: problem.into(),
            })
        };
        if attach.slots == 0 {
            return invalid("slots", "must be at least 1");
        }
        if attach.methods.is_empty() {
            return invalid("methods", "must not be empty");
        }
        if self.live.workers.of(attach.conn).is_some() {
            return invalid("hello", "was said before on this stream");
        }
        let number = |path: &Arc<str>| {
            let unknown = || Error::MethodUnknown {
                method: Arc::clone(path),
            };
            self.state.methods.find(path).ok_or_else(unknown)
        };
        attach.methods.iter().map(number).collect()
    }

    fn attach(&mut self, attach: WorkerAttach, numbers: &[u32], now: Millis, step: &mut Step) {
        let old = self
            .live
            .workers
            .by_id
            .get(&attach.worker)
            .copied()
            .unwrap_or(NONE);
        let orphans = self.live.orphans.remove(&attach.worker).unwrap_or_default();
        let orphans: BTreeSet<(TaskId, Token)> = orphans.into_iter().collect();
        let (mut kept, mut lost) = (BTreeSet::new(), Vec::new());
        for (task, token) in attach.held {
            match self.movable(task, token, old, &orphans) {
                Some(slot) => drop(kept.insert(slot)),
                None => lost.push((task, token)),
            }
        }
        // A lease that moves keeps its run: only the stream under it changes.
        kept.iter().for_each(|slot| self.unhold(*slot));
        if old != NONE {
            let error = Error::WorkerReplaced {
                worker: Arc::clone(&attach.worker),
            };
            let conn = self.live.workers.slab[old].conn;
            self.lose_worker(old, "its stream was replaced", now, step);
            step.effects.push(Effect::WorkerClosed { conn, error });
        }
        let mut worker = self.make_worker(attach.conn, attach.worker, attach.version, numbers);
        worker.slots = attach.slots;
        let number = self.live.workers.insert(worker);
        self.worker_takes(number, true, now);
        if crate::mutant::is(crate::mutant::Mutant::DoubleGrant) {
            self.give_back(
                kept.iter().copied().collect(),
                ReturnCause::HandedBack,
                step,
            );
        } else {
            kept.into_iter()
                .for_each(|slot| self.take_over(slot, number));
        }
        step.effects.push(Effect::WorkerWelcome {
            conn: attach.conn,
            lost,
            flags: self.flags(),
        });
        let left = orphans
            .iter()
            .filter_map(|(task, token)| self.orphan(*task, *token))
            .collect();
        self.end_orphans(left, now, step);
        for run in orphans {
            self.allow_run(run, now, step);
        }
    }

    /// A worker with its place in the class of those that serve the same methods.
    fn make_worker(
        &mut self,
        conn: ConnId,
        id: Arc<str>,
        version: Arc<str>,
        numbers: &[u32],
    ) -> Worker {
        let lists = self.lists_of(&version, numbers);
        let positions = self.positions_of(&lists, numbers);
        let class = self
            .live
            .workers
            .classes
            .find_or_make(&lists, &self.state.methods);
        let mut worker = workers::attached(conn, id, class, positions);
        worker.version = version;
        worker.routes = numbers.to_vec();
        worker
    }

    /// Gives a worker a lease that it brought along.
    fn take_over(&mut self, slot: u32, number: u32) {
        let waiting = self.lease(slot).is_some_and(Lease::is_waiting);
        let latency = self.latency_of(slot);
        *self.live.workers.changing(number).counter(waiting, latency) += 1;
        self.hold(slot, number, 0);
    }

    /// The slot of a lease that a worker brings along and may keep.
    fn movable(
        &self,
        task: TaskId,
        token: Token,
        old: u32,
        orphans: &BTreeSet<(TaskId, Token)>,
    ) -> Option<u32> {
        if old != NONE
            && let Some(slot) = self.held_by(old, task, token)
        {
            return Some(slot);
        }
        let slot = self.orphan(task, token)?;
        // What a run asked for so far is not recorded, so after a restart a flow with children runs anew
        // and finds them.
        let flow = self.state.tasks[slot]
            .family()
            .is_some_and(|family| family.count > 0);
        (orphans.contains(&(task, token)) && !flow).then_some(slot)
    }

    /// The slot of a lease from before a restart whose worker has not come back.
    pub(super) fn orphan(&self, task: TaskId, token: Token) -> Option<u32> {
        self.held_by(NONE, task, token)
    }

    /// Takes a lease off its worker's list, its run untouched.
    fn unhold(&mut self, slot: u32) {
        let number = self.state.tasks[slot].lease();
        let lease = &self.state.leases.slab[number];
        let (holder, waiting, latency) = (lease.worker, lease.is_waiting(), lease.latency);
        if holder == NONE {
            return;
        }
        let worker = self.live.workers.changing(holder);
        self.state.leases.detach(&mut worker.first_lease, number);
        *worker.counter(waiting, latency) -= 1;
    }

    pub(super) fn worker_detached(
        &mut self,
        conn: ConnId,
        reason: &str,
        now: Millis,
        step: &mut Step,
    ) {
        if let Some(worker) = self.live.workers.of(conn) {
            self.lose_worker(worker, reason, now, step);
        }
    }

    /// A worker is gone: its leases end now.
    fn lose_worker(&mut self, number: u32, reason: &str, now: Millis, step: &mut Step) {
        let worker = &self.live.workers.slab[number];
        let (accepted, id, draining) = (worker.accepted, Arc::clone(&worker.id), worker.draining);
        // Handlers that it may have begun, oldest first: a task that ends its worker's process does so before the
        // receipt of it is told, and would else never run out of attempts. But once a worker has said that it drains,
        // which tells the receipt of all that it has, it begins nothing: what was on its way to it then comes back.
        let mut may_have_begun = if draining { 0 } else { worker.slots };
        let mut leases = Vec::new();
        let mut next = worker.first_lease;
        while let Some(lease) = self.state.leases.slab.get(next) {
            leases.push(next);
            next = lease.link.next;
        }
        let (mut unstarted, mut suspended, mut started) = (Vec::new(), Vec::new(), Vec::new());
        for lease in leases.into_iter().rev() {
            let lease = &self.state.leases.slab[lease];
            let waits_for_children = lease
                .run
                .as_ref()
                .is_some_and(|run| run.outstanding > 0 && run.foreign == 0);
            let (slot, waiting) = (lease.task, lease.is_waiting());
            let sent_only = lease.sequence > accepted && may_have_begun == 0;
            may_have_begun = may_have_begun.saturating_sub(u32::from(!waiting));
            if draining && sent_only {
                unstarted.push(slot);
            } else if self.is_at_most_once(slot)
                && !crate::mutant::is(crate::mutant::Mutant::OnceTwice)
            {
                // It may have received, and begun, what it did not acknowledge.
                started.push(slot);
            } else if waits_for_children {
                suspended.push(slot);
            } else if sent_only || waiting {
                unstarted.push(slot);
            } else {
                started.push(slot);
            }
        }
        for slot in unstarted.iter().chain(&suspended) {
            self.release(*slot);
        }
        self.give_back(unstarted, ReturnCause::HandedBack, step);
        self.unload(&suspended, step);
        self.tell_lost(&id, &started);
        for slot in started {
            let text = format!("worker {id} is gone: {reason}");
            self.lose_attempt(slot, text, now, step);
        }
        self.worker_takes(number, false, now);
        self.live.workers.remove(number);
    }

    /// Figures tell which attempts went with a worker: who restarts it knows then that its tasks may have ended it.
    fn tell_lost(&mut self, worker: &Arc<str>, started: &[u32]) {
        if started.is_empty() || self.live.lost.len() >= LOST_MAX {
            return;
        }
        let first = started.iter().take(LOST_TASKS_MAX);
        let tasks = first.map(|slot| self.state.tasks[*slot].id).collect();
        self.live.lost.push(LostAttempts {
            worker: Arc::clone(worker),
            attempts: u32::try_from(started.len()).unwrap_or(u32::MAX),
            tasks,
        });
    }

    pub(super) fn lose_attempt(&mut self, slot: u32, text: String, now: Millis, step: &mut Step) {
        // A task that must not start twice was cut off in the middle, for good.
        let code = if self.is_at_most_once(slot) { 10 } else { 14 };
        self.count_lease_end(slot, LeaseEnd::WorkerLost);
        self.tally_as(slot, (code, true), now);
        let failure = failure(Reason::WorkerLost, code, text);
        self.fail_attempt(slot, failure, FailedBy::Worker, now, step);
    }

    fn count_lease_end(&mut self, slot: u32, why: LeaseEnd) {
        let method = self.state.tasks[slot].method;
        self.state.methods.count_lease_end(method, why);
    }

    /// Flows without a lease from here on, until a child ends.
    pub(super) fn unload(&mut self, slots: &[u32], step: &mut Step) {
        if slots.is_empty() {
            return;
        }
        let tasks = slots
            .iter()
            .map(|slot| self.state.tasks[*slot].id)
            .collect();
        self.commit(Record::Suspended { tasks }, step);
        slots.iter().for_each(|slot| self.changed(*slot));
    }

    pub(super) fn worker_accepted(&mut self, conn: ConnId, sequence: u64) {
        let Some(number) = self.live.workers.of(conn) else {
            return;
        };
        let worker = &mut self.live.workers.slab[number];
        let before = worker.accepted;
        let has_room_again = worker.receives(sequence);
        if has_room_again {
            self.live.workers.changing(number);
        }
        let worker = &self.live.workers.slab[number];
        if self.live.watchers.is_empty() || worker.accepted == before {
            return;
        }
        let mut next = worker.first_lease;
        let accepted = worker.accepted;
        while let Some(lease) = self.state.leases.slab.get(next) {
            let (slot, sent) = (lease.task, lease.sequence);
            next = lease.link.next;
            if sent > before && sent <= accepted {
                self.changed(slot);
            }
        }
    }

    pub(super) fn worker_resized(&mut self, conn: ConnId, slots: u32) {
        if let Some(worker) = self.live.workers.of(conn) {
            self.live.workers.changing(worker).slots = slots.max(1);
        }
    }

    pub(super) fn worker_draining(&mut self, conn: ConnId, now: Millis) {
        if let Some(worker) = self.live.workers.of(conn) {
            self.live.workers.changing(worker).draining = true;
            self.worker_takes(worker, false, now);
        }
    }

    /// Leases that their workers did not come back for end, without an attempt lost.
    fn end_orphans(&mut self, slots: Vec<u32>, now: Millis, step: &mut Step) {
        let (started, returned): (Vec<u32>, Vec<u32>) = slots
            .into_iter()
            .partition(|slot| self.is_at_most_once(*slot));
        for slot in &returned {
            self.count_lease_end(*slot, LeaseEnd::BrokerRestarted);
        }
        self.give_back(returned, ReturnCause::BrokerRestarted, step);
        for slot in started {
            let text = "the broker restarted and the worker did not come back".to_owned();
            self.lose_attempt(slot, text, now, step);
        }
    }

    /// The grace after a restart is over.
    pub(super) fn reattach_over(&mut self, now: Millis, step: &mut Step) {
        let mut slots = Vec::new();
        while slots.len() < ORPHANS_MAX
            && let Some((worker, mut leases)) = self.live.orphans.pop_first()
        {
            let most = leases.len().min(ORPHANS_MAX - slots.len());
            let rest = leases.split_off(most);
            if !rest.is_empty() {
                self.live.orphans.insert(worker, rest);
            }
            slots.extend(
                leases
                    .iter()
                    .filter_map(|(task, token)| self.orphan(*task, *token)),
            );
        }
        self.end_orphans(slots, now, step);
        if !self.live.orphans.is_empty() {
            self.live.alarms.set(now, Alarm::Reattach);
        }
    }
}
