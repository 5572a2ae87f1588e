//! How tasks end, come back, and are forgotten.

use super::slab::NONE;
use super::task::{Link, Stage, Task, UNPLACED, flag};
use super::{State, expired, families, timeline};
use crate::effect::{TaskState, TimelineEvent};
use crate::ids::{Millis, TaskId, Token};
use crate::record::{Blob, ExpiryCause, Failure, Reason};
use bytes::Bytes;
use std::sync::Arc;

/// The reason of a cancellation that comes from the end of the flow.
pub(crate) const PARENT_ENDED: &str = "the flow that asked for it has ended";

impl State {
    pub(super) fn succeeded(&mut self, id: TaskId, response: &Blob, time: Millis) {
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
        if !self.blobs.placing {
            self.retire(slot);
        }
    }

    pub(super) fn failed(
        &mut self,
        id: TaskId,
        failure: &Failure,
        dead_letter: bool,
        time: Millis,
    ) {
        let Some(slot) = self.open(id) else { return };
        self.note(slot, TaskState::Failed, failure_cause(failure), time);
        self.exit(slot);
        let task = &mut self.tasks[slot];
        task.more_mut().failure = Some(own(failure));
        task.set_flag(flag::DEAD_LETTER, dead_letter);
        self.end(slot, TaskState::Failed, time, None);
    }

    pub(super) fn cancelled(&mut self, id: TaskId, reason: &Arc<str>, time: Millis) {
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

    pub(super) fn expired(&mut self, id: TaskId, cause: ExpiryCause, time: Millis) {
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
        self.methods.count_end(&self.tasks[slot], state, time);
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
        // One that succeeded waits for its response to be placed.
        if state != TaskState::Succeeded {
            self.settle(slot);
        }
    }

    pub(super) fn redriven(&mut self, id: TaskId, expire_at: Millis, time: Millis) {
        let Some(slot) = self.tasks.find(id) else {
            return;
        };
        let Stage::Done { worker, .. } = self.tasks[slot].stage else {
            return;
        };
        self.archives.spare(id);
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
        if families::is_orphan(&self.tasks, slot) {
            // It runs for its own sake: the end of its flow does not reach it again.
            self.families.expel(&mut self.tasks, slot);
            self.tasks[slot].disown();
        }
        self.families.moved(&mut self.tasks, slot, true);
        self.families.forget_failures(&mut self.tasks, slot);
        if self.indexed {
            self.lines
                .join(&mut self.tasks, &mut self.methods, slot, self.time);
        }
        self.enter(slot);
    }

    pub(super) fn dropped(&mut self, id: TaskId) {
        self.archives.spare(id);
        if let Some(task) = self.tasks.remove_retired(id) {
            if self.indexed {
                self.methods.discount(task.method, task.state);
            }
            return self.forget(task);
        }
        let Some(slot) = self.tasks.find(id) else {
            return;
        };
        if !self.tasks[slot].is_final() {
            return;
        }
        self.exit(slot);
        self.wheel.cancel(&mut self.tasks, slot);
        self.dedup.remove(&self.tasks, slot);
        self.families.expel(&mut self.tasks, slot);
        if let Some(task) = self.tasks.remove(slot) {
            self.forget(task);
        }
    }

    fn forget(&mut self, mut task: Task) {
        if let Stage::Done { worker, .. } = task.stage {
            self.names.release(worker);
        }
        self.blobs.forget(&mut task);
    }
}

/// A failure may stay for months: its bytes must not pin the buffer they arrived in.
pub(super) fn own(failure: &Failure) -> Box<Failure> {
    Box::new(Failure {
        details: Bytes::copy_from_slice(&failure.details),
        trailers: Bytes::copy_from_slice(&failure.trailers),
        ..failure.clone()
    })
}

pub(super) fn failure_cause(failure: &Failure) -> &'static str {
    match failure.reason {
        Some(Reason::WorkerLost) => "WORKER_LOST",
        Some(Reason::AttemptTimedOut) => "ATTEMPT_TIMED_OUT",
        _ => "FAILED",
    }
}
