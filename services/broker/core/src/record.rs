//! The facts: what the log holds and replay reads. State that survives a crash changes through
//! these records and through nothing else, so that replay and life cannot differ.
//!
//! The types here are the state machine's own. The shell's journal turns them into bytes and back.

use crate::ids::{ArchiveId, Millis, Offset, SessionId, TaskId, Token};
use crate::policy::MethodPolicy;
use bytes::Bytes;
use std::sync::Arc;

/// Bytes that the state machine carries but never reads: a request, a response, an envelope.
///
/// `bytes` is present while the blob is kept in memory. `at` is known once its record was placed in the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blob {
    /// The bytes, if they are in memory.
    pub bytes: Option<Bytes>,
    /// Where the log has them, once it has. Meaningless when `len` is 0.
    pub at: Option<Offset>,
    /// Their number.
    pub len: u32,
}

impl Blob {
    /// A blob that is in memory and not yet in the log.
    pub fn resident(bytes: Bytes) -> Self {
        Self {
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            bytes: Some(bytes),
            at: None,
        }
    }

    /// A blob that only the log has.
    pub fn stored(at: Offset, len: u32) -> Self {
        Self {
            bytes: None,
            at: Some(at),
            len,
        }
    }
}

/// How a task or an attempt failed: the handler's own status, or ours with a `reason`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Failure {
    /// Set when the state machine itself made the failure; `details` is empty then, and whoever puts it on the wire
    /// adds ErrorInfo with [`Reason::name`]. None: the handler's own status, to be passed on byte for byte.
    pub reason: Option<Reason>,
    /// gRPC code, never 0.
    pub code: u32,
    /// gRPC message.
    pub message: Arc<str>,
    /// grpc-status-details-bin.
    pub details: Bytes,
    /// Trailing metadata, encoded by the shell; opaque here.
    pub trailers: Bytes,
}

/// Why the state machine made a [`Failure`]. The numbers are for the journal and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The task was cancelled; the message is the canceller's.
    TaskCancelled = 1,
    /// The deadline passed while no attempt ran.
    ExpiredBeforeStart = 2,
    /// The deadline passed while an attempt ran.
    ExpiredWhileRunning = 3,
    /// The attempt ran longer than its policy allows.
    AttemptTimedOut = 4,
    /// The worker vanished while it ran the attempt.
    WorkerLost = 5,
    /// Somebody waits for a task that does not exist.
    TaskNotFound = 6,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::TaskCancelled,
        Self::ExpiredBeforeStart,
        Self::ExpiredWhileRunning,
        Self::AttemptTimedOut,
        Self::WorkerLost,
        Self::TaskNotFound,
    ];

    /// The name in ErrorInfo.reason.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskCancelled => "TASK_CANCELLED",
            Self::ExpiredBeforeStart | Self::ExpiredWhileRunning => "TASK_EXPIRED",
            Self::AttemptTimedOut => "ATTEMPT_TIMED_OUT",
            Self::WorkerLost => "WORKER_LOST",
            Self::TaskNotFound => "TASK_NOT_FOUND",
        }
    }

    /// The value of ErrorInfo.metadata["cause"], if the reason has one.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::ExpiredBeforeStart => Some("BEFORE_START"),
            Self::ExpiredWhileRunning => Some("WHILE_RUNNING"),
            _ => None,
        }
    }

    /// The reason with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }
}

/// A task as it was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Its number.
    pub id: TaskId,
    /// Its method.
    pub method: Arc<str>,
    /// Its priority.
    pub priority: u8,
    /// When it may start; equal to or before the record's time: at once.
    pub start_at: Millis,
    /// When it expires.
    pub expire_at: Millis,
    /// Its idempotency key.
    pub idempotency_key: Option<Arc<str>>,
    /// Its ordering key.
    pub ordering_key: Option<Arc<str>>,
    /// Its limit key.
    pub limit_key: Option<Arc<str>>,
    /// The flow it is a child of, with the child's key.
    pub parent: Option<(TaskId, ChildKey)>,
    /// Of a child: feature flags as the flow's run had read them, encoded by the shell; empty: none.
    pub flags: Bytes,
    /// Digest of the request, for conflicts under one key.
    pub digest: u128,
    /// The serialized request.
    pub request: Blob,
    /// Metadata for the handler, encoded by the shell.
    pub envelope: Blob,
}

/// What names a child among its parent's children.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKey {
    /// The caller named it.
    Named(Arc<str>),
    /// Digest of method and request, and how many equal calls of the run came before.
    Nth(u128, u32),
}

/// Why a task of a submission was refused; kept so that a repeated submission gets the same answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Which task of the submission.
    pub index: u32,
    /// Why.
    pub error: crate::effect::Error,
}

/// What a submission led to, kept so that it can be answered again.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Acceptance {
    /// For each task its number, 0 for a refused one.
    pub tasks: Vec<u64>,
    /// The refused ones.
    pub refusals: Vec<Refusal>,
    /// Indices of those that existed already.
    pub existing: Vec<u32>,
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// The task.
    pub task: TaskId,
    /// Its new token.
    pub token: Token,
    /// The attempt's number, from 1.
    pub attempt: u32,
}

/// Why a task that held a lease is READY again without having lost an attempt, or with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnCause {
    /// The worker gave it back, or vanished before it accepted it.
    HandedBack,
    /// The broker restarted and the worker did not come back with it.
    BrokerRestarted,
    /// A suspended flow has a child that ended.
    ChildEnded,
}

/// Why a task expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryCause {
    /// No attempt was running.
    BeforeStart,
    /// An attempt was running; it is told to stop.
    WhileRunning,
}

/// One fact. A record carries no time of its own; its frame does.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Tasks were accepted, READY or SCHEDULED. `acceptance` holds the whole answer, existing and refused
    /// ones included.
    Submitted {
        session: Option<(SessionId, u64)>,
        acceptance: Acceptance,
        tasks: Vec<NewTask>,
    },
    /// Leases were granted to one worker.
    Started {
        worker: Arc<str>,
        starts: Vec<Start>,
    },
    /// Attempts ended well: RUNNING → SUCCEEDED.
    Succeeded { tasks: Vec<(TaskId, Blob)> },
    /// An attempt failed and will be repeated: RUNNING → BACKOFF until `ready_at`.
    Retried {
        task: TaskId,
        failure: Failure,
        ready_at: Millis,
        backoff_step: u32,
    },
    /// Leases ended without an outcome; → READY.
    Returned {
        tasks: Vec<TaskId>,
        cause: ReturnCause,
    },
    /// Flows were unloaded: RUNNING → SUSPENDED without a lease.
    Suspended { tasks: Vec<TaskId> },
    /// Failed for good.
    Failed {
        task: TaskId,
        failure: Failure,
        dead_letter: bool,
    },
    /// Cancelled.
    Cancelled { task: TaskId, reason: Arc<str> },
    /// Expired.
    Expired {
        tasks: Vec<TaskId>,
        cause: ExpiryCause,
    },
    /// Failed tasks are READY again from their first attempt, with a new deadline.
    Redriven { tasks: Vec<(TaskId, Millis)> },
    /// Finished tasks are forgotten.
    Dropped { tasks: Vec<TaskId> },
    /// Finished tasks are in an archive file, which is durable, and no more in memory.
    Archived {
        archive: ArchiveId,
        tasks: Vec<TaskId>,
    },
    /// Archive files are forgotten with all their tasks.
    ArchivesDropped { archives: Vec<ArchiveId> },
    /// Tasks of an archive file are in memory again, as they were; it tells of them no more.
    Restored {
        archive: ArchiveId,
        tasks: Vec<crate::image::TaskImage>,
    },
    /// Sessions that were idle too long are forgotten.
    SessionsDropped { sessions: Vec<SessionId> },
    /// A queue was paused.
    QueuePaused { queue: Arc<str>, reason: Arc<str> },
    /// A queue was resumed.
    QueueResumed { queue: Arc<str> },
    /// Policies are in force from here on. Tasks accepted before keep their deadline, but retry by the new policy.
    PoliciesApplied { policies: Vec<MethodPolicy> },
    /// A key was written.
    KvPut {
        key: Arc<str>,
        value: Bytes,
        version: u64,
    },
    /// A key was removed.
    KvDeleted { key: Arc<str> },
    /// Part of a snapshot: see [`crate::image`].
    Image(crate::image::Image),
}
