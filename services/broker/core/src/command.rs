//! What the shell asks of the state machine.

use crate::ids::{ArchiveId, ConnId, ReplyTag, SessionId, TaskId, Token};
use crate::image::TaskImage;
use crate::policy::MethodPolicy;
use crate::record::Failure;
use crate::split::Split;
use crate::weight::Weights;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Written by each scheduler that takes the lead, and by nobody else: its version is the epoch of that scheduler.
pub const LEADER_KEY: &str = "scheduler/leader";

/// Where feature flags are in the key-value space, by name. Attached workers are told of every change under it.
pub const FLAGS_PREFIX: &str = "flags/";

/// How many attempts of a method may begin until the next word. It is not durable: whoever set it sets it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// Full path.
    pub method: Arc<str>,
    /// Attempts that may begin; `None`: any number.
    pub permits: Option<u32>,
    /// How long this holds, ms; then any number may begin.
    pub valid_ms: u64,
}

/// How many attempts a worker may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerGate {
    /// Its id.
    pub worker: Arc<str>,
    /// Attempts that it may be given; `None`: as many as its window has room for.
    pub permits: Option<u32>,
    /// How long this holds, ms; then there is no gate.
    pub valid_ms: u64,
}

/// One request, or one thing that happened outside.
#[derive(Debug)]
pub enum Command {
    /// Tasks to accept.
    Submit(Submit),
    /// A submitter's stream opened; answered by `Effect::SessionOpened`. An older stream of the same
    /// session is no longer served.
    SessionOpened { conn: ConnId, session: SessionId },
    /// A submitter's stream is gone; nothing more is sent there.
    SessionClosed { conn: ConnId },
    /// Results wanted on a submitter's stream; `parent` when a flow waits for its children.
    Await {
        conn: ConnId,
        tasks: Vec<TaskId>,
        forget: Vec<TaskId>,
        parent: Option<(TaskId, Token)>,
    },
    /// A worker's stream opened; answered by `Effect::WorkerWelcome` or `Effect::WorkerClosed`.
    WorkerAttached(WorkerAttach),
    /// A worker's stream is gone: its leases end now.
    WorkerDetached { conn: ConnId, reason: Arc<str> },
    /// A worker received attempts up to this frame.
    WorkerAccepted { conn: ConnId, sequence: u64 },
    /// Attempts ended.
    Outcomes {
        conn: ConnId,
        sequence: u64,
        outcomes: Vec<Outcome>,
    },
    /// Attempts that the worker will not start.
    HandBack {
        conn: ConnId,
        leases: Vec<(TaskId, Token)>,
    },
    /// Flows that the worker unloaded.
    Suspend {
        conn: ConnId,
        leases: Vec<(TaskId, Token)>,
    },
    /// How far handlers are.
    Progress {
        conn: ConnId,
        entries: Vec<(TaskId, Token, f64, Arc<str>)>,
    },
    /// The worker offers another number of slots.
    WorkerResized { conn: ConnId, slots: u32 },
    /// The worker takes no more.
    WorkerDraining { conn: ConnId },
    /// Cancel a task; answered by `Reply::Task`, or by `Reply::Archived` for one that is final and in an archive file.
    Cancel {
        tag: ReplyTag,
        task: TaskId,
        reason: Arc<str>,
    },
    /// Run failed tasks again; answered by `Reply::Count`, or by `Reply::Archived` with those that must be read from
    /// archive files first: nothing was done then. `archived` is what was read, by task; None: no file has it.
    Redrive {
        tag: ReplyTag,
        tasks: Vec<TaskId>,
        archived: BTreeMap<TaskId, Option<(ArchiveId, TaskImage)>>,
        dry_run: bool,
    },
    /// Pause a queue; answered by `Reply::Done`.
    PauseQueue {
        tag: ReplyTag,
        queue: Arc<str>,
        reason: Arc<str>,
    },
    /// Resume a queue; answered by `Reply::Done`.
    ResumeQueue { tag: ReplyTag, queue: Arc<str> },
    /// Send `Effect::TaskChanged` now and after each change until the task is final.
    Watch { conn: ConnId, task: TaskId },
    /// No longer.
    Unwatch { conn: ConnId },
    /// Policies to enforce; answered by `Reply::Done`.
    ApplyPolicies {
        tag: ReplyTag,
        policies: Vec<MethodPolicy>,
    },
    /// Windows of workers by id; answered by `Reply::Unknown` with those not attached.
    SetWindows {
        tag: ReplyTag,
        windows: Vec<(Arc<str>, u32)>,
    },
    /// All splits in force from now on; answered by `Reply::Done`. `record` is the same as the shell encodes it, kept
    /// under [`SPLITS_KEY`](crate::split::SPLITS_KEY) for [`restore_splits`](crate::Partition::restore_splits).
    SetSplits {
        tag: ReplyTag,
        splits: Vec<Split>,
        record: Bytes,
    },
    /// All weights of keys of a method from now on, whether it is known or not; answered by `Reply::Done`. `record` is
    /// the same as the shell encodes it, kept under [`WEIGHTS_PREFIX`](crate::weight::WEIGHTS_PREFIX) and the method
    /// for [`restore_weights`](crate::Partition::restore_weights).
    SetWeights {
        tag: ReplyTag,
        method: Arc<str>,
        weights: Weights,
        record: Bytes,
    },
    /// Write a key; answered by `Reply::Version`.
    KvPut {
        tag: ReplyTag,
        key: Arc<str>,
        value: Bytes,
        expected: Option<u64>,
    },
    /// Let only some attempts of methods begin; answered by `Reply::Unknown`.
    SetGates { tag: ReplyTag, gates: Vec<Gate> },
    /// Give workers only some attempts; answered by `Reply::Unknown` with those not attached.
    SetWorkerGates {
        tag: ReplyTag,
        gates: Vec<WorkerGate>,
    },
    /// Wait until attempts of a method fail that no figures have told of; answered by `Reply::Done`, then or when
    /// somebody else waits.
    AwaitFailures { tag: ReplyTag },
    /// Remove a key; answered by `Reply::Done`.
    KvDelete {
        tag: ReplyTag,
        key: Arc<str>,
        expected: Option<u64>,
    },
    /// A scheduler's command: `SetWindows`, `SetGates`, `SetWorkerGates`, `SetSplits`, `SetWeights`, `ApplyPolicies`,
    /// `KvPut` or `KvDelete`, done only if the key [`LEADER_KEY`] has this version, which is the scheduler's epoch;
    /// else answered by `Reply::Fenced`.
    Fenced {
        tag: ReplyTag,
        epoch: u64,
        command: Box<Command>,
    },
    /// The archive file that `Partition::begin_archive` named is durable, or could not be written.
    ArchiveWritten { archive: ArchiveId, written: bool },
    /// Time has come for `Partition::next_timer`.
    Tick,
}

/// Tasks to accept.
#[derive(Debug)]
pub struct Submit {
    /// Who is told.
    pub origin: SubmitOrigin,
    /// Whether results go to the origin's stream.
    pub await_results: bool,
    /// The tasks.
    pub tasks: Vec<SubmitTask>,
}

/// Where a submission came from.
#[derive(Debug, Clone, PartialEq)]
pub enum SubmitOrigin {
    /// A stream; answered by `Effect::Accepted`. A sequence that was accepted before is answered from the record.
    Session {
        conn: ConnId,
        session: SessionId,
        sequence: u64,
    },
    /// A unary call; answered by `Reply::Accepted`. `request_id` makes it idempotent: the shell derives 16
    /// bytes from it.
    Call {
        tag: ReplyTag,
        request_id: Option<SessionId>,
        dry_run: bool,
    },
}

/// One task to accept.
#[derive(Debug, Clone)]
pub struct SubmitTask {
    /// Full method path; shared by the tasks of a frame.
    pub method: Arc<str>,
    /// The serialized request.
    pub request: Bytes,
    /// Digest of method and request, computed by the shell.
    pub digest: u128,
    /// Empty: none.
    pub idempotency_key: Option<Arc<str>>,
    /// Empty: none.
    pub ordering_key: Option<Arc<str>>,
    /// What a limit groups by. Empty: none.
    pub limit_key: Option<Arc<str>>,
    /// What is rare.
    pub options: Option<Box<SubmitOptions>>,
}

/// What a submitter may say beyond the request.
#[derive(Debug, Clone, Default)]
pub struct SubmitOptions {
    /// Starts no earlier than this after acceptance, ms.
    pub delay_ms: u64,
    /// The shorter of this and the policy's holds, ms.
    pub deadline_ms: Option<u64>,
    /// In place of the policy's.
    pub priority: Option<u8>,
    /// Metadata for the handler, encoded by the shell.
    pub envelope: Bytes,
    /// The flow that asks: parent, its token, and the child's name if it has one.
    pub parent: Option<(TaskId, Token, Option<Arc<str>>)>,
    /// Feature flags as the flow's run has read them so far, encoded by the shell; empty: none.
    pub flags: Bytes,
}

/// A worker that attaches.
#[derive(Debug)]
pub struct WorkerAttach {
    /// Its stream.
    pub conn: ConnId,
    /// Its id.
    pub worker: Arc<str>,
    /// The version of its program; empty: none.
    pub version: Arc<str>,
    /// Full method paths it serves, in its order.
    pub methods: Vec<Arc<str>>,
    /// Attempts it can run at once.
    pub slots: u32,
    /// Leases it holds from before a restart of the broker.
    pub held: Vec<(TaskId, Token)>,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Outcome {
    /// The task.
    pub task: TaskId,
    /// The token it ran under.
    pub token: Token,
    /// The response, or how it failed and what google.rpc.RetryInfo in the details said, ms; `u64::MAX` for a
    /// negative or unreadable delay, which means: do not retry.
    pub result: Result<Bytes, (Failure, Option<u64>)>,
}
