//! From records to state: the only place where what survives a crash changes. It decides nothing; a
//! record that does not fit the state is passed over.

use super::endings::{failure_cause, own};
use super::slab::NONE;
use super::task::{FAR, Stage, flag};
use super::{State, leases, timeline};
use crate::effect::{TaskState, TimelineEvent};
use crate::ids::{Millis, TaskId};
use crate::record::{Acceptance, Failure, NewTask, Record, ReturnCause, Start};
use std::sync::Arc;

impl State {
    /// Takes a fact in.
    pub(crate) fn evolve(&mut self, record: &Record, time: Millis) {
        let torn = crate::mutant::is(crate::mutant::Mutant::SnapshotOfTwoTimes);
        if self.imaging.is_some() && !torn {
            self.save_changed(record);
        }
        let time = time.min(FAR);
        self.time = self.time.max(time);
        match record {
            Record::Submitted {
                session,
                acceptance,
                tasks,
            } => {
                self.submitted(session.as_ref(), acceptance, tasks, time);
            }
            Record::Started { worker, starts } => self.started(worker, starts, time),
            Record::Succeeded { tasks } => {
                tasks
                    .iter()
                    .for_each(|(id, response)| self.succeeded(*id, response, time));
            }
            Record::Retried {
                task,
                failure,
                ready_at,
                backoff_step,
            } => {
                self.retried(*task, failure, *ready_at, *backoff_step, time);
            }
            Record::Returned { tasks, cause } => {
                tasks.iter().for_each(|id| self.returned(*id, *cause, time));
            }
            Record::Suspended { tasks } => tasks.iter().for_each(|id| self.suspended(*id, time)),
            Record::Failed {
                task,
                failure,
                dead_letter,
            } => {
                self.failed(*task, failure, *dead_letter, time);
            }
            Record::Cancelled { task, reason } => self.cancelled(*task, reason, time),
            Record::Expired { tasks, cause } => {
                tasks.iter().for_each(|id| self.expired(*id, *cause, time));
            }
            Record::Redriven { tasks } => {
                tasks
                    .iter()
                    .for_each(|(id, expire_at)| self.redriven(*id, *expire_at, time));
            }
            Record::Dropped { tasks } => tasks.iter().for_each(|id| self.dropped(*id)),
            Record::Archived { archive, tasks } => self.archived(*archive, tasks),
            Record::ArchivesDropped { archives } => self.archives_dropped(archives),
            Record::Restored { archive, tasks } => {
                tasks.iter().for_each(|task| self.restored(*archive, task));
            }
            Record::SessionsDropped { sessions } => {
                sessions
                    .iter()
                    .for_each(|id| drop(self.sessions.sessions.remove(id)));
            }
            Record::QueuePaused { queue, reason } => self.methods.pause(queue, Some(reason)),
            Record::QueueResumed { queue } => self.methods.pause(queue, None),
            Record::PoliciesApplied { policies } => {
                policies.iter().for_each(|policy| self.apply_policy(policy));
                self.archives.set_ends(&self.methods);
            }
            Record::KvPut {
                key,
                value,
                version,
            } => self.kv.put(key, value, *version),
            Record::KvDeleted { key } => drop(self.kv.entries.remove(key)),
            Record::Image(image) => self.load(image),
        }
    }

    fn submitted(
        &mut self,
        session: Option<&(crate::ids::SessionId, u64)>,
        acceptance: &Acceptance,
        tasks: &[NewTask],
        time: Millis,
    ) {
        let mut known: Option<(&Arc<str>, u32)> = None;
        for new in tasks {
            let number = match known {
                Some((path, number)) if Arc::ptr_eq(path, &new.method) => number,
                _ => match self.methods.find(&new.method) {
                    Some(number) => number,
                    None => continue,
                },
            };
            known = Some((&new.method, number));
            self.accept(new, number, time);
        }
        if let Some((id, sequence)) = session {
            self.sessions.accepted(*id, *sequence, acceptance, time);
        }
    }

    fn started(&mut self, worker: &Arc<str>, starts: &[Start], time: Millis) {
        let name = self.names.acquire(worker, starts.len() as u64);
        for start in starts {
            let slot = self
                .open(start.task)
                .filter(|slot| self.tasks[*slot].lease() == NONE);
            let Some(slot) = slot else {
                self.names.release(name);
                continue;
            };
            self.exit(slot);
            if !self.tasks[slot].flag(flag::COUNTED) {
                let now = self.time;
                self.methods.replay_start(&mut self.tasks, slot, now);
            }
            let timeout = self
                .methods
                .policy(self.tasks[slot].method)
                .attempt_timeout_ms;
            let deadline = time.saturating_add(timeout);
            let lease = self
                .leases
                .slab
                .insert(leases::Lease::new(slot, name, deadline));
            // One that was handed back or unloaded comes here again, under the same number.
            if self.tasks[slot].started_after == NONE {
                self.methods.count_wait(&self.tasks[slot], time);
            }
            let task = &mut self.tasks[slot];
            timeline::note_plain(task, || TimelineEvent {
                at: time,
                state: TaskState::Running,
                attempt: start.attempt,
                cause: "STARTED",
                worker: Some(Arc::clone(worker)),
            });
            task.attempt = u16::try_from(start.attempt).unwrap_or(u16::MAX);
            task.state = TaskState::Running;
            task.started_after = timeline::after(task, time);
            if let Stage::Open {
                token, lease: held, ..
            } = &mut task.stage
            {
                *token = start.token;
                *held = lease;
            }
            self.enter(slot);
        }
    }

    fn retried(
        &mut self,
        id: TaskId,
        failure: &Failure,
        ready_at: Millis,
        backoff_step: u32,
        time: Millis,
    ) {
        let Some(slot) = self.open(id) else { return };
        self.exit(slot);
        let state = if ready_at > time {
            TaskState::Backoff
        } else {
            TaskState::Ready
        };
        self.note(slot, state, failure_cause(failure), time);
        let name = self.take_lease(slot);
        self.names.release(name);
        let task = &mut self.tasks[slot];
        task.more_mut().failure = Some(own(failure));
        task.rare_mut().backoff_step = backoff_step;
        task.start_at = ready_at;
        task.state = state;
        if crate::mutant::is(crate::mutant::Mutant::LineNotHeld) {
            self.lines.leave(&mut self.tasks, &mut self.methods, slot);
        }
        self.enter(slot);
    }

    fn returned(&mut self, id: TaskId, cause: ReturnCause, time: Millis) {
        let Some(slot) = self.open(id) else { return };
        let cause = match cause {
            ReturnCause::HandedBack => "HANDED_BACK",
            ReturnCause::BrokerRestarted => "BROKER_RESTARTED",
            ReturnCause::ChildEnded => "CHILD_ENDED",
        };
        self.unlease(slot, TaskState::Ready, cause, time);
        // The attempt does not count: the next one has its number again.
        let task = &mut self.tasks[slot];
        task.attempt = task.attempt.saturating_sub(1);
        if self.indexed && task.attempt == 0 {
            // As if it had never started, it has no right to the head before an older one that came back.
            self.lines.leave(&mut self.tasks, &mut self.methods, slot);
            self.lines
                .join(&mut self.tasks, &mut self.methods, slot, self.time);
        }
        self.enter(slot);
    }

    fn suspended(&mut self, id: TaskId, time: Millis) {
        let Some(slot) = self.open(id) else { return };
        self.unlease(slot, TaskState::Suspended, "SUSPENDED", time);
        self.enter(slot);
    }

    fn unlease(&mut self, slot: u32, state: TaskState, cause: &'static str, time: Millis) {
        self.exit(slot);
        self.note(slot, state, cause, time);
        let name = self.take_lease(slot);
        self.names.release(name);
        self.tasks[slot].state = state;
    }

    pub(super) fn lease_name(&self, slot: u32) -> Option<Arc<str>> {
        let lease = self.leases.slab.get(self.tasks[slot].lease())?;
        self.names.get(lease.name).map(Arc::clone)
    }

    /// Tells the timeline what a plain life does not have.
    pub(super) fn note(&mut self, slot: u32, state: TaskState, cause: &'static str, at: Millis) {
        let worker = self.lease_name(slot);
        let known =
            timeline::last_worker(&self.tasks[slot], &self.leases, &self.names).map(Arc::clone);
        let task = &mut self.tasks[slot];
        let attempt = u32::from(task.attempt);
        let event = TimelineEvent {
            at,
            state,
            attempt,
            cause,
            worker,
        };
        timeline::note(task, known.as_ref(), event);
    }
}
