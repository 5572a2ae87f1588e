//! What the state machine asks of the shell. An effect may be carried out only when the records of
//! the same step, and of all steps before it, are durable.

use crate::ids::{ArchiveId, ConnId, Millis, ReplyTag, TaskId, Token};
use crate::record::{Acceptance, Blob, ChildKey, Failure, Reason};
use bytes::Bytes;
use std::sync::Arc;

/// Something to do outside.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Answer a call.
    Reply { tag: ReplyTag, reply: Reply },
    /// A session is open; the last sequence accepted from it.
    SessionOpened { conn: ConnId, last_sequence: u64 },
    /// Another stream took over the session: end this one.
    SessionReplaced { conn: ConnId },
    /// The submitter's stream broke the rules (a sequence gap): end it with this error. Nothing more is sent there.
    SessionClosed { conn: ConnId, error: Error },
    /// A submission over a stream is durable.
    Accepted {
        conn: ConnId,
        sequence: u64,
        acceptance: Acceptance,
    },
    /// Results for a submitter's stream.
    Results {
        conn: ConnId,
        results: Vec<TaskResult>,
    },
    /// Results for a submitter's stream that must be read from archive files.
    ResultsArchived { conn: ConnId, tasks: Vec<TaskId> },
    /// A worker is attached; these of its held leases are not its own any more, and these are all feature flags.
    WorkerWelcome {
        conn: ConnId,
        lost: Vec<(TaskId, Token)>,
        flags: Vec<(Arc<str>, Bytes)>,
    },
    /// A feature flag was set, or removed where it has no value.
    FlagChanged {
        conn: ConnId,
        name: Arc<str>,
        value: Option<Bytes>,
    },
    /// A worker's stream is to be ended (replaced, or refused).
    WorkerClosed { conn: ConnId, error: Error },
    /// Work for a worker: one frame, numbered per stream from 1.
    Attempts {
        conn: ConnId,
        sequence: u64,
        attempts: Vec<Attempt>,
    },
    /// Outcomes are durable.
    Settled {
        conn: ConnId,
        sequence: u64,
        refused: Vec<(TaskId, Token, Error)>,
    },
    /// Attempts to stop.
    Stop {
        conn: ConnId,
        entries: Vec<(TaskId, Token, StopReason)>,
    },
    /// A watched task changed.
    TaskChanged { conn: ConnId, task: Box<TaskView> },
    /// A watched task is final, and must be read from an archive file.
    WatchArchived { conn: ConnId, task: TaskId },
    /// A watched task does not exist.
    WatchFailed { conn: ConnId, error: Error },
    /// Nothing refers to these archive files any more.
    ArchivesReleased { archives: Vec<ArchiveId> },
    /// The rest of a segment's payloads are no longer needed: hint to ask `Partition::needs` again.
    LogReleasable,
}

/// Answer of a call.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Done.
    Done,
    /// A submission's outcome.
    Accepted(Acceptance),
    /// A task.
    Task(Box<TaskView>),
    /// Tasks that must be read from archive files.
    Archived(Vec<TaskId>),
    /// A number.
    Count(u64),
    /// A key's new version.
    Version(u64),
    /// Names that were not known.
    Unknown(Vec<Arc<str>>),
    /// Nothing was done: the epoch is another one by now.
    Fenced(u64),
    /// Refused.
    Error(Error),
}

/// Why the state machine refused. The shell gives each its gRPC code, reason and details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A token that is not the task's.
    #[error("the lease of {task} is lost")]
    LeaseLost { task: TaskId },
    /// The queue is over its limit.
    #[error("queue {queue} is full: {limit} tasks wait")]
    QueueFull {
        queue: Arc<str>,
        limit: u64,
        retry_after_ms: u64,
    },
    /// The policy asks for a key ("idempotency" or "ordering").
    #[error("{method} needs an {key} key and the task has none")]
    KeyMissing { method: Arc<str>, key: &'static str },
    /// Another request under the same key.
    #[error("idempotency key {key:?} was used by {task} with another request")]
    DuplicateKeyConflict { task: TaskId, key: Arc<str> },
    /// Other children than recorded.
    #[error("flow {parent} asked for a child it did not ask for before: {child}")]
    FlowDiverged { parent: TaskId, child: Arc<str> },
    /// No policy.
    #[error("no contract declares {method}")]
    MethodUnknown { method: Arc<str> },
    /// No such task.
    #[error("there is no task {task}")]
    TaskNotFound { task: TaskId },
    /// No such queue.
    #[error("there is no queue {queue}")]
    QueueNotFound { queue: Arc<str> },
    /// The state does not allow it.
    #[error("{task} is {state:?}")]
    StateConflict { task: TaskId, state: TaskState },
    /// Compare-and-swap.
    #[error("the key has version {version}")]
    VersionMismatch { version: u64 },
    /// A sequence number that was accepted so long ago that its answer is gone, or one that skips.
    #[error("sequence {sequence} does not follow {last}")]
    SequenceGap { sequence: u64, last: u64 },
    /// Another stream took the worker's id.
    #[error("worker {worker} attached again")]
    WorkerReplaced { worker: Arc<str> },
    /// A value outside its range.
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: Arc<str>,
    },
}

/// A final outcome for whoever waits.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// The task.
    pub task: TaskId,
    /// The response, or the failure and the final state.
    pub result: Result<Blob, (TaskState, Failure)>,
}

impl TaskResult {
    /// What somebody is told who waits for a task that does not exist.
    pub fn not_found(task: TaskId) -> Self {
        let failure = Failure {
            reason: Some(Reason::TaskNotFound),
            code: 5,
            message: format!("there is no task {task}").into(),
            ..Failure::default()
        };
        Self {
            task,
            result: Err((TaskState::Failed, failure)),
        }
    }
}

/// One attempt for a worker.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// Its token.
    pub token: Token,
    /// Index into the worker's methods.
    pub method: u32,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// What is left for it, ms.
    pub timeout_ms: u64,
    /// The serialized request.
    pub request: Blob,
    /// Metadata for the handler, encoded by the shell when it was submitted.
    pub envelope: Blob,
    /// What is rare.
    pub extra: Option<Box<AttemptExtra>>,
    /// When the task was accepted.
    pub created_at: Millis,
}

/// Rare facts of an attempt.
#[derive(Debug, Clone, Default)]
pub struct AttemptExtra {
    /// Its idempotency key.
    pub idempotency_key: Option<Arc<str>>,
    /// Its ordering key.
    pub ordering_key: Option<Arc<str>>,
    /// Children that earlier runs recorded.
    pub recorded_children: u64,
    /// The parent.
    pub parent: Option<TaskId>,
    /// The key by which it reads feature flags, where it is not told by what is above.
    pub flag_key: Option<Arc<str>>,
    /// Feature flags as earlier runs had read them, each as one run told it with a child.
    pub flags: Vec<Arc<[u8]>>,
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The task was cancelled.
    Cancelled,
    /// The task's deadline passed.
    Expired,
    /// The attempt's time is over.
    AttemptTimedOut,
    /// The lease is somebody else's.
    LeaseLost,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Waits for its start time.
    Scheduled,
    /// May start.
    Ready,
    /// Leased.
    Running,
    /// Waits after a failure.
    Backoff,
    /// A flow that waits for children.
    Suspended,
    /// READY in a paused queue. A view only: the record says READY.
    Parked,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

impl TaskState {
    /// Whether nothing more happens to it, a redrive aside.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired
        )
    }
}

/// Why READY tasks do not start although a worker may have room: see [`crate::policy::Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HeldBy {
    /// As many attempts of the method run as may.
    Concurrency,
    /// As many attempts of the method began as may for now.
    Rate,
    /// As many attempts of their key run as may.
    KeyConcurrency,
    /// As many attempts of their key began as may for now.
    KeyRate,
}

impl HeldBy {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::Concurrency,
        Self::Rate,
        Self::KeyConcurrency,
        Self::KeyRate,
    ];
}

/// Every cause that a [`TimelineEvent`] can have.
pub const CAUSES: [&str; 14] = [
    "SUBMITTED",
    "STARTED",
    "COMPLETED",
    "FAILED",
    "WORKER_LOST",
    "ATTEMPT_TIMED_OUT",
    "HANDED_BACK",
    "BROKER_RESTARTED",
    "SUSPENDED",
    "CHILD_ENDED",
    "CANCEL_REQUESTED",
    "PARENT_ENDED",
    "DEADLINE",
    "REDRIVEN",
];

/// The cause with this name; what a reader of the log needs to build a [`TimelineEvent`]. "" for one that is not known.
pub fn cause(name: &str) -> &'static str {
    CAUSES
        .into_iter()
        .find(|cause| *cause == name)
        .unwrap_or("")
}

/// One transition, for people. A task keeps its first four and its last twelve.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineEvent {
    /// When.
    pub at: Millis,
    /// The state it entered.
    pub state: TaskState,
    /// The attempt it concerns; 0: none.
    pub attempt: u32,
    /// Why: "SUBMITTED", "STARTED", ...
    pub cause: &'static str,
    /// The worker it concerns.
    pub worker: Option<Arc<str>>,
}

/// A task as a reader sees it.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// Its number.
    pub id: TaskId,
    /// Its method.
    pub method: Arc<str>,
    /// Its queue.
    pub queue: Arc<str>,
    /// Where it is, PARKED and SUSPENDED included.
    pub state: TaskState,
    /// Its priority.
    pub priority: u8,
    /// Attempts started.
    pub attempt: u32,
    /// Attempts it may have.
    pub max_attempts: u32,
    /// Who holds it.
    pub worker: Option<Arc<str>>,
    /// Its idempotency key.
    pub idempotency_key: Option<Arc<str>>,
    /// Its ordering key.
    pub ordering_key: Option<Arc<str>>,
    /// When it was accepted.
    pub created_at: Millis,
    /// When it may start.
    pub start_at: Millis,
    /// When it expires.
    pub expire_at: Millis,
    /// When it became final; 0: not yet.
    pub ended_at: Millis,
    /// Its parent and its key there.
    pub parent: Option<(TaskId, ChildKey)>,
    /// Its children.
    pub child_count: u64,
    /// Whether it is a dead letter.
    pub dead_letter: bool,
    /// The latest failure.
    pub failure: Option<Failure>,
    /// The request.
    pub request: Blob,
    /// The response, when SUCCEEDED.
    pub response: Blob,
    /// Metadata, encoded by the shell.
    pub envelope: Blob,
    /// The latest progress.
    pub progress: Option<(f64, Arc<str>)>,
    /// What happened.
    pub events: Vec<TimelineEvent>,
}

impl TaskView {
    /// The final outcome, if the task has one.
    pub fn into_result(self) -> Option<TaskResult> {
        let result = match self.state {
            TaskState::Succeeded => Ok(self.response),
            state if state.is_final() => Err((state, self.failure.unwrap_or_default())),
            _ => return None,
        };
        Some(TaskResult {
            task: self.id,
            result,
        })
    }
}

/// A queue as a reader sees it.
#[derive(Debug, Clone)]
pub struct QueueView {
    /// Its name.
    pub name: Arc<str>,
    /// Why it is paused, if it is.
    pub paused: Option<Arc<str>>,
    /// Tasks by state.
    pub counts: Vec<(TaskState, u64)>,
    /// When the oldest READY task was accepted.
    pub oldest_ready: Option<Millis>,
    /// Dead letters.
    pub dead_letters: u64,
    /// Methods whose tasks it holds.
    pub methods: Vec<Arc<str>>,
    /// Workers attached.
    pub workers: u32,
    /// READY tasks that a limit holds, by method and why; none while the queue is paused.
    pub held: Vec<(Arc<str>, HeldBy, u64)>,
}
