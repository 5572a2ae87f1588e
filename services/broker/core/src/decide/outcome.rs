//! How attempts end: outcomes, failures of our own making, and leases that are given back.

use super::backoff;
use crate::command::Outcome;
use crate::effect::{Effect, Error};
use crate::ids::{ConnId, Millis, TaskId, Token};
use crate::live::worker_gate::Verdict;
use crate::partition::{Partition, Step};
use crate::policy::Latency;
use crate::record::{Blob, ExpiryCause, Failure, Record, ReturnCause};
use crate::state::leases::Lease;
use crate::state::slab::NONE;
use std::sync::Arc;

/// gRPC's code.
const DEADLINE_EXCEEDED: u32 = 4;

/// How far the time of a command may lie behind the handler's, in milliseconds: commands that come while the log syncs
/// get the time at which their group began.
const BEHIND: Millis = 1_000;

/// Who made a failure, and so what decides about a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailedBy {
    /// The handler, or the attempt's own time limit: the policy's codes decide.
    Attempt { pushback: Option<Millis> },
    /// The worker vanished: the attempt says nothing about the task, so it is repeated whatever the codes.
    Worker,
}

impl Partition {
    /// The slot of a task that this worker holds under this token.
    pub(crate) fn held_by(&self, worker: u32, task: TaskId, token: Token) -> Option<u32> {
        let slot = self.state.tasks.find(task)?;
        let entry = &self.state.tasks[slot];
        if entry.token() != token && !crate::mutant::is(crate::mutant::Mutant::SkipFence) {
            return None;
        }
        let lease = self.state.leases.slab.get(entry.lease())?;
        (lease.worker == worker).then_some(slot)
    }

    /// Takes a lease from its worker, before a record ends it. Gives back the worker, or NONE.
    pub(crate) fn release(&mut self, slot: u32) -> u32 {
        let number = self.state.tasks[slot].lease();
        let Some(lease) = self.state.leases.slab.get(number) else {
            return NONE;
        };
        let (holder, waiting, latency) = (lease.worker, lease.is_waiting(), lease.latency);
        if waiting {
            self.show_running(slot);
            self.state.leases.slab[number].run = None;
        }
        if holder == NONE {
            return NONE;
        }
        let worker = self.live.workers.changing(holder);
        self.state.leases.detach(&mut worker.first_lease, number);
        *worker.counter(waiting, latency) -= 1;
        holder
    }

    pub(super) fn outcomes(
        &mut self,
        conn: ConnId,
        sequence: u64,
        outcomes: Vec<Outcome>,
        now: Millis,
        step: &mut Step,
    ) {
        let worker = self.live.workers.of(conn);
        let mut refused = Vec::new();
        let mut done = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let Outcome {
                task,
                token,
                result,
            } = outcome;
            let slot = worker.and_then(|worker| self.held_by(worker, task, token));
            let Some(slot) = slot else {
                refused.push((task, token, Error::LeaseLost { task }));
                continue;
            };
            let code = result
                .as_ref()
                .map_or_else(|(failure, _)| failure.code, |_| 0);
            self.tally(slot, code, now);
            match result {
                Ok(response) => {
                    self.release(slot);
                    done.push((slot, task, Blob::resident(response)));
                }
                Err((failure, pushback)) => {
                    self.succeed(&mut done, step);
                    let by = FailedBy::Attempt { pushback };
                    self.fail_attempt(slot, failure, by, now, step);
                }
            }
        }
        self.succeed(&mut done, step);
        step.effects.push(Effect::Settled {
            conn,
            sequence,
            refused,
        });
    }

    fn succeed(&mut self, done: &mut Vec<(u32, TaskId, Blob)>, step: &mut Step) {
        if done.is_empty() {
            return;
        }
        let slots: Vec<u32> = done.iter().map(|(slot, ..)| *slot).collect();
        let tasks = done
            .drain(..)
            .map(|(_, task, response)| (task, response))
            .collect();
        self.commit(Record::Succeeded { tasks }, step);
        slots.into_iter().for_each(|slot| self.ended(slot));
    }

    pub(crate) fn tally(&mut self, slot: u32, code: u32, now: Millis) {
        self.tally_as(slot, (code, false), now);
    }

    /// An attempt ended, or was lost with its worker.
    pub(crate) fn tally_as(&mut self, slot: u32, (code, lost): (u32, bool), now: Millis) {
        let task = &self.state.tasks[slot];
        let busy_ms = now.saturating_sub(task.started_at().unwrap_or(now));
        let (method, token) = (task.method, task.token());
        let lease = self.state.leases.slab.get(task.lease());
        let holder = lease.map_or(NONE, |lease| lease.worker);
        let mut says_nothing = lost;
        if holder != NONE {
            let worker = &mut self.live.workers.slab[holder];
            // Whoever is closed off is ill itself: its failures are not the method's.
            says_nothing |= worker.gate.permits.is_some();
            worker.busy_ms += busy_ms;
            if worker.gate.covers(token) {
                worker
                    .said
                    .add(method, Verdict::of(if lost { 1 } else { code }));
            }
            if code == 0 {
                worker.succeeded += 1;
            } else {
                worker.failed += 1;
            }
            self.tally_side(method, holder, (code, lost), busy_ms);
        }
        let methods = &mut self.state.methods;
        if methods.count_outcome(method, token, (code, says_nothing), busy_ms) {
            self.live.failures.begin();
        }
    }

    /// An attempt failed: it is repeated after a while, or the task has failed.
    pub(crate) fn fail_attempt(
        &mut self,
        slot: u32,
        failure: Failure,
        by: FailedBy,
        now: Millis,
        step: &mut Step,
    ) {
        self.release(slot);
        let id = self.state.tasks[slot].id;
        if let Some((ready_at, backoff_step)) = self.retry(slot, &failure, by, now) {
            self.state.methods.methods[self.state.tasks[slot].method as usize]
                .tally
                .retried += 1;
            self.commit(
                Record::Retried {
                    task: id,
                    failure,
                    ready_at,
                    backoff_step,
                },
                step,
            );
            self.changed(slot);
            return;
        }
        if self.tells_of_the_deadline(slot, &failure, now) {
            return self.expire(vec![slot], ExpiryCause::WhileRunning, step);
        }
        let dead_letter = self.dead_letters(slot);
        self.commit(
            Record::Failed {
                task: id,
                failure,
                dead_letter,
            },
            step,
        );
        self.ended(slot);
    }

    /// Whether a failure says that time is up, and means the end that our timer is about to tell. A handler is believed
    /// a little before it; of a task with little time, at most half of that is doubtful.
    fn tells_of_the_deadline(&self, slot: u32, failure: &Failure, now: Millis) -> bool {
        let task = &self.state.tasks[slot];
        let behind = match failure.reason {
            None => BEHIND.min(task.expire_at.saturating_sub(task.created_at) / 2),
            Some(_) => 0,
        };
        failure.code == DEADLINE_EXCEEDED && task.expire_at <= now.saturating_add(behind)
    }

    /// When the attempt is repeated, if it is.
    fn retry(
        &mut self,
        slot: u32,
        failure: &Failure,
        by: FailedBy,
        now: Millis,
    ) -> Option<(Millis, u32)> {
        let random = self.live.random();
        let task = &self.state.tasks[slot];
        let policy = self.state.methods.policy(task.method);
        let (wanted, pushback) = match by {
            FailedBy::Attempt { pushback } => (policy.retryable.contains(failure.code), pushback),
            FailedBy::Worker => (true, None),
        };
        let more = u32::from(crate::mutant::is(crate::mutant::Mutant::AttemptsOffByOne));
        let left = u32::from(task.attempt) < policy.max_attempts + more;
        if !wanted || !left || policy.at_most_once {
            return None;
        }
        let (delay, backoff_step) = backoff::delay(policy, task.backoff_step(), pushback, random);
        let remaining = task.expire_at.saturating_sub(now);
        (delay < remaining).then(|| (now + delay, backoff_step))
    }

    pub(super) fn hand_back(&mut self, conn: ConnId, leases: &[(TaskId, Token)], step: &mut Step) {
        let Some(worker) = self.live.workers.of(conn) else {
            return;
        };
        let mut slots = Vec::new();
        for (task, token) in leases {
            if let Some(slot) = self.held_by(worker, *task, *token) {
                self.release(slot);
                slots.push(slot);
            }
        }
        self.give_back(slots, ReturnCause::HandedBack, step);
    }

    /// Released leases end without an attempt lost.
    pub(crate) fn give_back(&mut self, slots: Vec<u32>, cause: ReturnCause, step: &mut Step) {
        if slots.is_empty() {
            return;
        }
        let tasks = slots
            .iter()
            .map(|slot| self.state.tasks[*slot].id)
            .collect();
        self.commit(Record::Returned { tasks, cause }, step);
        slots.into_iter().for_each(|slot| self.changed(slot));
    }

    pub(super) fn progress(&mut self, conn: ConnId, entries: Vec<(TaskId, Token, f64, Arc<str>)>) {
        let Some(worker) = self.live.workers.of(conn) else {
            return;
        };
        for (task, token, fraction, message) in entries {
            if let Some(slot) = self.held_by(worker, task, token) {
                let more = self.state.tasks[slot].more_mut();
                more.progress = Some(Box::new((fraction, message)));
                self.changed(slot);
            }
        }
    }

    /// The lease of a task, if it has one.
    pub(crate) fn lease(&self, slot: u32) -> Option<&Lease> {
        self.state.leases.slab.get(self.state.tasks[slot].lease())
    }

    pub(crate) fn latency_of(&self, slot: u32) -> Latency {
        let method = self.state.tasks[slot].method;
        self.state.methods.policy(method).latency
    }
}
