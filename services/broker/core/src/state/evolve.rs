//! From records to state: the only place where what survives a crash changes. It decides nothing; a
//! record that does not fit the state is passed over.

use super::slab::NONE;
use super::task::{Birth, FAR, Link, Stage, Task, Timer, UNPLACED, flag};
use super::{State, expired, leases, timeline};
use crate::effect::{TaskState, TimelineEvent};
use crate::ids::{Millis, TaskId, Token};
use crate::record::{
    Acceptance, Blob, ExpiryCause, Failure, NewTask, Reason, Record, ReturnCause, Start,
};
use bytes::Bytes;
use std::sync::Arc;

/// The reason of a cancellation that comes from the end of the flow.
pub(crate) const PARENT_ENDED: &str = "the flow that asked for it has ended";

impl State {
    /// Takes a fact in.
    pub(crate) fn evolve(&mut self, record: &Record, time: Millis) {
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
            Record::SessionsDropped { sessions } => {
                sessions
                    .iter()
                    .for_each(|id| drop(self.sessions.sessions.remove(id)));
            }
            Record::QueuePaused { queue, reason } => self.methods.pause(queue, Some(reason)),
            Record::QueueResumed { queue } => self.methods.pause(queue, None),
            Record::PoliciesApplied { policies } => {
                policies
                    .iter()
                    .for_each(|policy| self.methods.apply(policy));
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

    fn accept(&mut self, new: &NewTask, method: u32, time: Millis) {
        let mut task = new_task(new, method, time);
        task.state = if new.start_at > time {
            TaskState::Scheduled
        } else {
            TaskState::Ready
        };
        if let Some(rare) = task.rare.as_mut() {
            rare.key_until = time
                .saturating_add(self.methods.policy(method).idempotency_window_ms)
                .min(FAR);
        }
        self.blobs
            .take_request(&mut task, &new.request, &new.envelope);
        self.next_task = self.next_task.max(new.id.0.saturating_add(1));
        let keyed = task.rare.is_some();
        let Some(slot) = self.tasks.insert(task) else {
            return;
        };
        self.methods.methods[method as usize].tally.submitted += 1;
        if keyed {
            self.dedup.insert(&self.tasks, slot);
            self.families.adopt(&mut self.tasks, slot);
            if self.indexed {
                self.lines.join(&mut self.tasks, &mut self.methods, slot);
            }
        }
        self.enter(slot);
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
            let timeout = self
                .methods
                .policy(self.tasks[slot].method)
                .attempt_timeout_ms;
            let deadline = time.saturating_add(timeout);
            let lease = self
                .leases
                .slab
                .insert(leases::Lease::new(slot, name, deadline));
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

    fn succeeded(&mut self, id: TaskId, response: &Blob, time: Millis) {
        let Some(slot) = self.open(id) else { return };
        let name = self.lease_name(slot);
        let task = &mut self.tasks[slot];
        let attempt = u32::from(task.attempt);
        timeline::note_plain(task, || TimelineEvent {
            at: time,
            state: TaskState::Succeeded,
            attempt,
            cause: "COMPLETED",
            worker: name,
        });
        if let Some(more) = task.rare.as_mut().and_then(|rare| rare.more.as_mut()) {
            more.failure = None;
        }
        self.finish(slot, TaskState::Succeeded, time, Some(response));
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
            self.lines.join(&mut self.tasks, &mut self.methods, slot);
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

    fn failed(&mut self, id: TaskId, failure: &Failure, dead_letter: bool, time: Millis) {
        let Some(slot) = self.open(id) else { return };
        self.note(slot, TaskState::Failed, failure_cause(failure), time);
        self.exit(slot);
        let task = &mut self.tasks[slot];
        task.more_mut().failure = Some(own(failure));
        task.set_flag(flag::DEAD_LETTER, dead_letter);
        self.end(slot, TaskState::Failed, time, None);
    }

    fn cancelled(&mut self, id: TaskId, reason: &Arc<str>, time: Millis) {
        let Some(slot) = self.open(id) else { return };
        let by_parent = **reason == *PARENT_ENDED;
        let cause = if by_parent {
            "PARENT_ENDED"
        } else {
            "CANCEL_REQUESTED"
        };
        self.note(slot, TaskState::Cancelled, cause, time);
        self.tasks[slot].more_mut().failure = Some(Box::new(Failure {
            reason: Some(Reason::TaskCancelled),
            code: 1,
            message: Arc::clone(reason),
            ..Failure::default()
        }));
        self.finish(slot, TaskState::Cancelled, time, None);
    }

    fn expired(&mut self, id: TaskId, cause: ExpiryCause, time: Millis) {
        let Some(slot) = self.open(id) else { return };
        let running = cause == ExpiryCause::WhileRunning;
        self.note(slot, TaskState::Expired, "DEADLINE", time);
        let task = &mut self.tasks[slot];
        task.set_flag(flag::EXPIRED_RUNNING, running);
        if let Some(last) = task.failure() {
            let failure = expired(running, Some(last));
            task.more_mut().failure = Some(Box::new(failure));
        }
        self.finish(slot, TaskState::Expired, time, None);
    }

    fn finish(&mut self, slot: u32, state: TaskState, time: Millis, response: Option<&Blob>) {
        self.exit(slot);
        self.end(slot, state, time, response);
    }

    /// Makes a task final that has left the indices of its state.
    fn end(&mut self, slot: u32, state: TaskState, time: Millis, response: Option<&Blob>) {
        self.lines.leave(&mut self.tasks, &mut self.methods, slot);
        let worker = self.take_lease(slot);
        let task = &mut self.tasks[slot];
        let done = Stage::Done {
            ended_at: time,
            response_at: UNPLACED,
            response_len: 0,
            worker,
        };
        task.stage = done;
        task.state = state;
        if let Some(response) = response {
            self.blobs.take_response(task, response);
        }
        self.blobs.finished(task);
        let (child, flow) = (task.birth().is_some(), task.family().is_some());
        if child {
            self.families.moved(&mut self.tasks, slot, false);
        }
        self.enter(slot);
        if flow {
            self.arm_children(slot);
        }
    }

    fn redriven(&mut self, id: TaskId, expire_at: Millis, time: Millis) {
        let Some(slot) = self.tasks.find(id) else {
            return;
        };
        let Stage::Done { worker, .. } = self.tasks[slot].stage else {
            return;
        };
        self.note(slot, TaskState::Ready, "REDRIVEN", time);
        self.exit(slot);
        self.names.release(worker);
        let task = &mut self.tasks[slot];
        task.stage = Stage::Open {
            token: Token(0),
            lease: NONE,
            link: Link::FREE,
        };
        task.state = TaskState::Ready;
        task.attempt = 0;
        task.started_after = NONE;
        task.expire_at = expire_at;
        task.set_flag(flag::DEAD_LETTER | flag::EXPIRED_RUNNING, false);
        if let Some(rare) = task.rare.as_mut() {
            rare.backoff_step = 0;
        }
        self.families.moved(&mut self.tasks, slot, true);
        self.families.forget_failures(&mut self.tasks, slot);
        if self.indexed {
            self.lines.join(&mut self.tasks, &mut self.methods, slot);
        }
        self.enter(slot);
    }

    fn dropped(&mut self, id: TaskId) {
        let Some(slot) = self.tasks.find(id) else {
            return;
        };
        let Stage::Done { worker, .. } = self.tasks[slot].stage else {
            return;
        };
        self.exit(slot);
        self.wheel.cancel(&mut self.tasks, slot);
        self.names.release(worker);
        self.dedup.remove(&self.tasks, slot);
        self.families.expel(&mut self.tasks, slot);
        self.blobs.forget(&mut self.tasks[slot]);
        self.tasks.remove(slot);
    }

    fn lease_name(&self, slot: u32) -> Option<Arc<str>> {
        let lease = self.leases.slab.get(self.tasks[slot].lease())?;
        self.names.get(lease.name).map(Arc::clone)
    }

    /// Tells the timeline what a plain life does not have.
    fn note(&mut self, slot: u32, state: TaskState, cause: &'static str, at: Millis) {
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

pub(super) fn new_task(new: &NewTask, method: u32, time: Millis) -> Task {
    let mut task = Task {
        id: new.id,
        created_at: time,
        start_at: new.start_at.min(FAR),
        expire_at: new.expire_at.min(FAR),
        timer: Timer::UNSET,
        request_at: UNPLACED,
        stage: Stage::Open {
            token: Token(0),
            lease: NONE,
            link: Link::FREE,
        },
        rare: None,
        request_len: 0,
        envelope_len: 0,
        method,
        resident: NONE,
        waiter: NONE,
        started_after: NONE,
        attempt: 0,
        state: TaskState::Ready,
        priority: new.priority,
        flags: 0,
    };
    if new.idempotency_key.is_some() || new.ordering_key.is_some() {
        let rare = task.rare_mut();
        rare.idempotency_key.clone_from(&new.idempotency_key);
        rare.ordering_key.clone_from(&new.ordering_key);
    }
    if new.idempotency_key.is_some() || new.parent.is_some() {
        task.rare_mut().digest = new.digest;
    }
    if let Some(key) = &new.limit_key {
        task.more_mut().limit_key = Some(Arc::clone(key));
    }
    if let Some((parent, key)) = &new.parent {
        task.more_mut().parent = Some(Box::new(Birth {
            parent: *parent,
            key: key.clone(),
            sibling: Link::FREE,
            asked: Token(0),
            awaited: Token(0),
        }));
    }
    task
}

/// A failure may stay for months: its bytes must not pin the buffer they arrived in.
fn own(failure: &Failure) -> Box<Failure> {
    Box::new(Failure {
        details: Bytes::copy_from_slice(&failure.details),
        trailers: Bytes::copy_from_slice(&failure.trailers),
        ..failure.clone()
    })
}

fn failure_cause(failure: &Failure) -> &'static str {
    match failure.reason {
        Some(Reason::WorkerLost) => "WORKER_LOST",
        Some(Reason::AttemptTimedOut) => "ATTEMPT_TIMED_OUT",
        _ => "FAILED",
    }
}
