//! Histories: what clients, workers and the broker saw and did, one entry a line of JSON. The README says what each
//! field means. Times are milliseconds of the recorder's clock; `*_at` fields named otherwise are the broker's own.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

/// Text that many entries share.
pub type Name = Arc<str>;

/// Number of a task; in JSON `"t%016x"`, and a plain number is read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task(pub u64);

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("t{:016x}", self.0))
    }
}

/// A number, or text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Task {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(Self(number)),
            Either::Text(text) => {
                let digits = text.strip_prefix('t').filter(|digits| digits.len() == 16);
                let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                let wrong =
                    || serde::de::Error::custom("a task is \"t\" and 16 hexadecimal digits");
                number.map(Self).ok_or_else(wrong)
            }
        }
    }
}

/// What stands for the bytes of a request or response: equal bytes, equal digest. In JSON a number, or any text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Digest(pub u64);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Either::deserialize(deserializer)? {
            Either::Number(number) => Self(number),
            Either::Text(text) => Self(fnv(text.as_bytes())),
        })
    }
}

/// FNV-1a: enough to tell digests apart, the same everywhere.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Where a task is, as far as a history tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Not final yet, whatever else.
    Unfinished,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Cancelled.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The broker does not know it (any more).
    NotFound,
}

impl State {
    /// Whether nothing more happens to it, a redrive aside.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Unfinished | Self::NotFound)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// When, ms of the recorder's clock. Lines are in the order of time.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The rules of a history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// By how much recorders may see two things in the wrong order, ms; 0 for a simulation.
    pub slack_ms: u64,
    /// Whether the recorder waited until all was over, so that every task must have ended.
    pub complete: bool,
    /// Methods of which no worker's side was recorded: their outcomes cannot be checked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<Name>,
    /// Whether a worker may have gone on after it lost its lease, unseen. A start under an older token than one that
    /// was seen then tells of nothing new.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zombies: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            slack_ms: 1_000,
            complete: true,
            unseen: Vec::new(),
            zombies: false,
        }
    }
}

/// What a method's policy says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Method {
    /// Full path.
    pub method: Name,
    /// Its queue.
    pub queue: Name,
    /// Time for the whole task.
    pub deadline_ms: u64,
    /// Time for one attempt.
    pub attempt_timeout_ms: u64,
    /// Attempts in all.
    pub max_attempts: u32,
    /// The longest wait before a retry.
    pub max_backoff_ms: u64,
    /// How long a key is remembered.
    pub window_ms: u64,
    /// How long a finished task is kept.
    pub retention_ms: u64,
    /// How long a failed task is kept as a dead letter; 0: it is none.
    pub dead_letter_ms: u64,
    /// Whether a started attempt is never repeated.
    pub at_most_once: bool,
    /// gRPC codes that are retried.
    pub retryable: Vec<u32>,
    /// What limits its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How it stands to others; where it is not told, nothing of that is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
}

/// How a method's tasks stand to those of other methods, and to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rank {
    /// Its latency class; the higher one goes first.
    pub latency: u8,
    /// Of a task that says none.
    pub priority: u8,
    /// The share of its queue.
    pub weight: u64,
    /// Whether limit keys take turns, and nothing else is limited by key.
    #[serde(default)]
    pub fair: bool,
}

/// How a service's tasks are divided between workers of one version and all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Split {
    /// Its full name.
    pub service: Name,
    /// The version that has the share.
    pub version: Name,
    /// Of 10,000.
    pub share: u64,
    /// What is hashed.
    pub sticky: Sticky,
    /// What goes into the hash.
    pub salt: Name,
    /// How long tasks of the others wait for one of them.
    pub fallback_ms: u64,
}

/// What decides on which side of a split a task is; without that key, the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The task, or the flow at its root.
    Task,
    /// Its ordering key.
    OrderingKey,
    /// Its idempotency key.
    IdempotencyKey,
    /// Its limit key.
    LimitKey,
}

/// A worker that the broker may give attempts to from now on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Joined {
    /// Its name. One that was there under it is there no more.
    pub worker: Name,
    /// Its stream.
    pub conn: u64,
    /// Of its program.
    #[serde(default)]
    pub version: Name,
    /// What it serves.
    pub methods: Vec<Name>,
    /// Attempts that it runs at once, at most.
    pub slots: u32,
    /// The broker's clock.
    pub broker_at: u64,
}

/// How many attempts may begin, of a method or at a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gate {
    /// The method, or the worker.
    pub of: Name,
    /// How many; any number where it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u64>,
    /// For how long.
    pub valid_ms: u64,
    /// The broker's clock.
    pub broker_at: u64,
}

/// Limits of a method, over all workers. 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Attempts that may begin in a period.
    pub starts: u64,
    /// The period.
    pub period_ms: u64,
    /// Attempts that may begin at once after a rest.
    pub burst: u64,
    /// Whether each limit key has this rate for itself.
    pub rate_by_key: bool,
    /// Attempts at once.
    pub running: u64,
    /// Attempts of one limit key at once.
    pub running_per_key: u64,
}

/// A task that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Submission {
    /// Number of the submission, unique in the history; the request carries it, so that a worker can tell it.
    pub id: u64,
    /// Who submits; one order of submission each.
    pub client: Name,
    /// The method.
    pub method: Name,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Name>,
    /// Ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Name>,
    /// Limit key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Name>,
    /// Of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Not before this after acceptance.
    #[serde(default)]
    pub delay_ms: u64,
    /// The shorter of this and the policy's holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The frame of the client's session and the place in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<(u64, u32)>,
    /// The flow that asks, and what names the child there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<(Task, Name)>,
    /// Its priority, if it is not the method's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
}

/// A lease that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The task.
    pub task: Task,
    /// Its fencing token.
    pub token: u64,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Who has it.
    pub worker: Name,
    /// The submission that the request tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Time left for the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The broker's clock when it was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_at: Option<u64>,
}

/// What somebody was told of a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Told {
    /// The task.
    pub task: Task,
    /// Its state.
    pub state: State,
    /// gRPC code of a failure.
    #[serde(default)]
    pub code: u32,
    /// Of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Attempts started, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Whether it is a dead letter, where it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<bool>,
    /// The broker's clock when it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_at: Option<u64>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum Event {
    /// How to read what follows. The first line.
    #[serde(rename = "rules")]
    Rules(Rules),
    /// A policy. Before its first task.
    #[serde(rename = "method")]
    Method(Method),
    /// Somebody wants a task.
    #[serde(rename = "submit.invoke")]
    SubmitInvoke(Submission),
    /// It was acknowledged.
    #[serde(rename = "submit.ok")]
    SubmitOk {
        /// The submission.
        id: u64,
        /// Its task.
        task: Task,
        /// Whether the task was there before.
        #[serde(default)]
        existing: bool,
        /// The broker's clock when the task was accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        created_at: Option<u64>,
    },
    /// It was refused and made nothing.
    #[serde(rename = "submit.fail")]
    SubmitFail {
        /// The submission.
        id: u64,
        /// ErrorInfo.reason.
        reason: Name,
    },
    /// Nobody knows.
    #[serde(rename = "submit.info")]
    SubmitInfo {
        /// The submission.
        id: u64,
    },
    /// Somebody wants a task cancelled.
    #[serde(rename = "cancel.invoke")]
    CancelInvoke {
        /// The task.
        task: Task,
    },
    /// The answer.
    #[serde(rename = "cancel.ok")]
    CancelOk(Told),
    /// Nobody knows.
    #[serde(rename = "cancel.info")]
    CancelInfo {
        /// The task.
        task: Task,
    },
    /// Failed tasks are to run again.
    #[serde(rename = "redrive.invoke")]
    RedriveInvoke {
        /// The tasks.
        tasks: Vec<Task>,
    },
    /// The broker granted a lease and made it durable. Only a simulation sees this.
    #[serde(rename = "dispatch")]
    Dispatch(Lease),
    /// The handler starts.
    #[serde(rename = "start")]
    Start(Lease),
    /// A worker tells how an attempt ended.
    #[serde(rename = "outcome.invoke")]
    OutcomeInvoke {
        /// The task.
        task: Task,
        /// Its token.
        token: u64,
        /// gRPC code; 0: well.
        code: u32,
        /// Of the response.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
        /// Whether the failure itself forbids a retry, or may leave no time for one.
        #[serde(default)]
        stop: bool,
    },
    /// It was settled.
    #[serde(rename = "outcome.ok")]
    OutcomeOk {
        /// The task.
        task: Task,
        /// Its token.
        token: u64,
    },
    /// It was refused: the lease is lost.
    #[serde(rename = "outcome.fail")]
    OutcomeFail {
        /// The task.
        task: Task,
        /// Its token.
        token: u64,
    },
    /// A store that checks keys and tokens took the effect of an attempt.
    #[serde(rename = "effect")]
    Effect {
        /// What the store keys it by.
        key: Name,
        /// The task.
        task: Task,
        /// The attempt's token.
        token: u64,
    },
    /// Whoever waited was told the end.
    #[serde(rename = "result")]
    Result(Told),
    /// Somebody looked at a task.
    #[serde(rename = "get")]
    Get(Told),
    /// A queue's dead letters, all of them.
    #[serde(rename = "dead_letters")]
    DeadLetters {
        /// The queue.
        queue: Name,
        /// What was listed.
        tasks: Vec<Task>,
        /// The broker's clock when it was listed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        broker_at: Option<u64>,
    },
    /// A queue is to pause.
    #[serde(rename = "pause.invoke")]
    PauseInvoke {
        /// The queue.
        queue: Name,
    },
    /// It is paused.
    #[serde(rename = "pause.ok")]
    PauseOk {
        /// The queue.
        queue: Name,
    },
    /// A queue is to go on.
    #[serde(rename = "resume.invoke")]
    ResumeInvoke {
        /// The queue.
        queue: Name,
    },
    /// It goes on.
    #[serde(rename = "resume.ok")]
    ResumeOk {
        /// The queue.
        queue: Name,
    },
    /// A worker is attached.
    #[serde(rename = "attach")]
    Attach {
        /// The worker.
        worker: Name,
    },
    /// A worker is gone, as far as it knows.
    #[serde(rename = "detach")]
    Detach {
        /// The worker.
        worker: Name,
    },
    /// A process died.
    #[serde(rename = "crash")]
    Crash {
        /// What died, and how.
        what: Name,
    },
    /// It serves again.
    #[serde(rename = "restart")]
    Restart {
        /// What.
        what: Name,
        /// The broker's clock, if it is the broker.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        broker_at: Option<u64>,
    },
    /// The broker is told to divide tasks so, from the next dispatch on. Only a simulation sees the broker take this
    /// and what follows.
    #[serde(rename = "splits.invoke")]
    SplitsInvoke,
    /// They are divided so, and that is durable: all splits that there are.
    #[serde(rename = "splits.ok")]
    SplitsOk {
        /// By service.
        splits: Vec<Split>,
        /// The broker's clock.
        broker_at: u64,
    },
    /// The broker is told other weights of a method's limit keys, from the next dispatch on.
    #[serde(rename = "weights.invoke")]
    WeightsInvoke {
        /// The method.
        method: Name,
    },
    /// They are in force, and that is durable: all weights that the method's keys have.
    #[serde(rename = "weights.ok")]
    WeightsOk {
        /// The method.
        method: Name,
        /// By key.
        weights: BTreeMap<Name, u32>,
    },
    /// The broker may give a worker attempts.
    #[serde(rename = "worker.on")]
    WorkerOn(Joined),
    /// A stream's worker drains, or is gone.
    #[serde(rename = "worker.off")]
    WorkerOff {
        /// The stream.
        conn: u64,
        /// The broker's clock.
        broker_at: u64,
    },
    /// A method has a gate. It ends with the broker's process.
    #[serde(rename = "gate")]
    Gate(Gate),
    /// A worker that is there has a gate, until it goes.
    #[serde(rename = "worker_gate")]
    WorkerGate(Gate),
}

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file.
    #[error("reading the history: {0}")]
    Io(#[from] io::Error),
    /// A line that is no entry.
    #[error("line {line}: {source}")]
    Line {
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a history; empty lines are passed over. Lines of several recorders need not be in order: they are sorted by
/// time, and stay as they are where that is equal.
pub fn read(lines: impl BufRead) -> Result<Vec<Entry>, HistoryError> {
    let mut entries = Vec::new();
    for (index, line) in lines.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |source| HistoryError::Line {
            line: index + 1,
            source,
        };
        entries.push(serde_json::from_str::<Entry>(&line).map_err(wrong)?);
    }
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

/// Writes a history.
pub fn write(entries: &[Entry], out: &mut dyn Write) -> io::Result<()> {
    for entry in entries {
        serde_json::to_writer(&mut *out, entry)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
