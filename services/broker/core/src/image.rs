//! What a snapshot is made of: records that rebuild the state of a partition from nothing.

use crate::effect::{TaskState, TimelineEvent};
use crate::ids::{ArchiveId, Millis, SessionId, TaskId, Token};
use crate::record::{Acceptance, Blob, Failure, NewTask};
use std::sync::Arc;

/// One part of a snapshot. Policies, queues and keys are ordinary records and come first, then
/// `Counters` and `Rate`, then tasks in ascending order, archives, and sessions.
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
    /// Archive files, and what is kept in memory of their tasks.
    Archives {
        files: Vec<ArchiveImage>,
        keys: Vec<ArchivedKey>,
    },
    /// What is used up of the rate of a method, or of some of its keys: see [`RateImage`].
    Rate(RateImage),
    /// A submitter's session.
    Session {
        session: SessionId,
        last_used: Millis,
        answers: Vec<(u64, Acceptance)>,
    },
}

/// What is used up of the rate of a method, or of some of its keys. What has recovered is not told.
#[derive(Clone, Debug, PartialEq)]
pub struct RateImage {
    /// Its path.
    pub method: Arc<str>,
    /// When its next start would be on time had there been no burst: ms, and parts of one by `Rate::starts`.
    pub arrival: (Millis, u64),
    /// The same of keys, if each has the rate for itself; None: of tasks without one.
    pub keys: Vec<KeyArrival>,
}

/// A key and when its next start would be on time.
pub type KeyArrival = (Option<Arc<str>>, (Millis, u64));

/// An archive file.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveImage {
    /// Its number.
    pub archive: ArchiveId,
    /// The lowest number in it.
    pub first: TaskId,
    /// The highest number in it.
    pub last: TaskId,
    /// What it holds.
    pub groups: Vec<ArchivedGroup>,
    /// When the last idempotency key in it is forgotten.
    pub key_until: Millis,
    /// How often payloads of its tasks lie in each MiB of the log: number of the MiB, count.
    pub regions: Vec<(u64, u64)>,
    /// Tasks that came back from it.
    pub restored: Vec<TaskId>,
}

/// Tasks of one method, state and kind in an archive file.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchivedGroup {
    /// Their method.
    pub method: Arc<str>,
    /// Their state.
    pub state: TaskState,
    /// Whether they are dead letters.
    pub dead_letter: bool,
    /// Their number.
    pub count: u64,
    /// When the latest of them ended.
    pub ended_at: Millis,
}

/// The idempotency key of an archived task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArchivedKey {
    /// Lower 64 bits of XXH3-128 of the method's path, a zero byte, and the key.
    pub hash: u64,
    /// Upper 16 bits of it.
    pub tag: u16,
    /// Lower half of the digest of method and request.
    pub digest: u64,
    /// The task.
    pub task: TaskId,
    /// When the key is forgotten.
    pub until: Millis,
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
