//! Refusals that are kept, so that a submission that comes again gets the same answer.

use std::sync::Arc;

use plait::pb::plait::log::v1 as pb;
use plait::pb::v1::ErrorReason;
use plait_broker_core::effect::Error;
use plait_broker_core::ids::TaskId;
use plait_broker_core::record::Refusal;

use super::JournalError;
use crate::states;

pub(super) fn encode(refusal: &Refusal) -> pb::Refusal {
    let mut out = pb::Refusal {
        index: refusal.index,
        ..pb::Refusal::default()
    };
    let reason = fill(&refusal.error, &mut out);
    out.set_reason(reason);
    out
}

fn fill(error: &Error, out: &mut pb::Refusal) -> ErrorReason {
    match error {
        Error::LeaseLost { task } => {
            out.task = task.0;
            ErrorReason::LeaseLost
        }
        Error::QueueFull {
            queue,
            limit,
            retry_after_ms,
        } => {
            out.subject = queue.to_string();
            (out.number, out.other) = (*limit, *retry_after_ms);
            ErrorReason::QueueFull
        }
        Error::KeyMissing { method, key } => {
            (out.subject, out.detail) = (method.to_string(), (*key).to_owned());
            ErrorReason::KeyMissing
        }
        Error::DuplicateKeyConflict { task, key } => {
            (out.task, out.subject) = (task.0, key.to_string());
            ErrorReason::DuplicateKeyConflict
        }
        Error::FlowDiverged { parent, child } => {
            (out.task, out.subject) = (parent.0, child.to_string());
            ErrorReason::FlowDiverged
        }
        Error::MethodUnknown { method } => {
            out.subject = method.to_string();
            ErrorReason::MethodUnknown
        }
        Error::TaskNotFound { task } => {
            out.task = task.0;
            ErrorReason::TaskNotFound
        }
        Error::QueueNotFound { queue } => {
            out.subject = queue.to_string();
            ErrorReason::QueueNotFound
        }
        Error::StateConflict { task, state } => {
            out.task = task.0;
            out.set_state(states::to_wire(*state));
            ErrorReason::StateConflict
        }
        Error::VersionMismatch { version } => {
            out.number = *version;
            ErrorReason::VersionMismatch
        }
        Error::SequenceGap { sequence, last } => {
            (out.number, out.other) = (*sequence, *last);
            ErrorReason::InvalidRequest
        }
        Error::WorkerReplaced { worker } => {
            out.subject = worker.to_string();
            ErrorReason::WorkerLost
        }
        Error::Invalid { field, problem } => {
            (out.subject, out.detail) = ((*field).to_owned(), problem.to_string());
            ErrorReason::InvalidRequest
        }
    }
}

pub(super) fn decode(refusal: &pb::Refusal) -> Result<Refusal, JournalError> {
    let (task, number, other) = (TaskId(refusal.task), refusal.number, refusal.other);
    let subject = || -> Arc<str> { Arc::from(refusal.subject.as_str()) };
    let error = match refusal.reason() {
        ErrorReason::LeaseLost => Error::LeaseLost { task },
        ErrorReason::QueueFull => Error::QueueFull {
            queue: subject(),
            limit: number,
            retry_after_ms: other,
        },
        ErrorReason::KeyMissing => Error::KeyMissing {
            method: subject(),
            key: key_kind(&refusal.detail),
        },
        ErrorReason::DuplicateKeyConflict => Error::DuplicateKeyConflict {
            task,
            key: subject(),
        },
        ErrorReason::FlowDiverged => Error::FlowDiverged {
            parent: task,
            child: subject(),
        },
        ErrorReason::MethodUnknown => Error::MethodUnknown { method: subject() },
        ErrorReason::TaskNotFound => Error::TaskNotFound { task },
        ErrorReason::QueueNotFound => Error::QueueNotFound { queue: subject() },
        ErrorReason::StateConflict => {
            let state = states::from_wire(refusal.state);
            Error::StateConflict {
                task,
                state: state.ok_or(UNKNOWN_STATE)?,
            }
        }
        ErrorReason::VersionMismatch => Error::VersionMismatch { version: number },
        ErrorReason::InvalidRequest if refusal.subject.is_empty() => Error::SequenceGap {
            sequence: number,
            last: other,
        },
        ErrorReason::InvalidRequest => Error::Invalid {
            field: field(&refusal.subject),
            problem: Arc::from(refusal.detail.as_str()),
        },
        ErrorReason::WorkerLost => Error::WorkerReplaced { worker: subject() },
        _ => {
            return Err(JournalError::Unknown {
                field: "refusal reason",
            });
        }
    };
    Ok(Refusal {
        index: refusal.index,
        error,
    })
}

const UNKNOWN_STATE: JournalError = JournalError::Unknown { field: "state" };

fn key_kind(kind: &str) -> &'static str {
    match kind {
        "idempotency" => "idempotency",
        "ordering" => "ordering",
        _ => "limit",
    }
}

/// The fields that the state machine names in `Error::Invalid`. Another one is read as "tasks", which holds them all.
pub(super) const FIELDS: [&str; 7] = [
    "tasks",
    "priority",
    "deadline",
    "delay",
    "parent",
    "child_key",
    "idempotency_key",
];

fn field(name: &str) -> &'static str {
    FIELDS
        .iter()
        .find(|known| **known == name)
        .copied()
        .unwrap_or(FIELDS[0])
}
