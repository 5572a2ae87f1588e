//! What a snapshot is made of: records that rebuild the state of a partition from nothing.

use crate::effect::{TaskState, TimelineEvent};
use crate::ids::{Millis, SessionId, TaskId, Token};
use crate::record::{Acceptance, Blob, Failure, NewTask};
use std::sync::Arc;

/// One part of a snapshot. Policies, queues and keys are ordinary records and come first, then
/// `Counters`, then tasks in ascending order, then sessions.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// Counters that must never go back.
    Counters {
        next_task: u64,
        kv_version: u64,
        time: Millis,
    },
    /// Tasks as they are.
    Tasks(Vec<TaskImage>),
    /// A submitter's session.
    Session {
        session: SessionId,
        last_used: Millis,
        answers: Vec<(u64, Acceptance)>,
    },
}

/// A task with everything that survives a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskImage {
    /// As it was accepted, with the present start and expiry times.
    pub task: NewTask,
    /// When it was accepted.
    pub created_at: Millis,
    /// RUNNING stands for a lease; PARKED is never used, a pause is the queue's.
    pub state: TaskState,
    /// Attempts started.
    pub attempt: u32,
    /// Failures since the backoff began anew.
    pub backoff_step: u32,
    /// The latest token; 0: never leased.
    pub token: Token,
    /// Who holds the lease.
    pub worker: Option<Arc<str>>,
    /// When the idempotency key is forgotten.
    pub key_until: Millis,
    /// When it became final.
    pub ended_at: Millis,
    /// The result of a SUCCEEDED task.
    pub response: Blob,
    /// The latest failure.
    pub failure: Option<Failure>,
    /// Whether it is a dead letter.
    pub dead_letter: bool,
    /// What happened to it.
    pub events: Vec<TimelineEvent>,
}

impl TaskImage {
    /// The task's number.
    pub fn id(&self) -> TaskId {
        self.task.id
    }
}
