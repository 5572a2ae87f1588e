//! What a worker says after its hello, as commands.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::v1::{self as pb, attach_request::Message};
use plait_broker_core::command::{Command, Outcome};
use plait_broker_core::ids::{ConnId, TaskId, Token};
use plait_broker_core::record::Failure;

use super::failures;
use super::validate::full_column;
use crate::limits::Limits;
use crate::status::{Refused, invalid, retry_info_ms};

/// How an attempt ended, as the state machine takes it.
type Ended = Result<Bytes, (Failure, Option<u64>)>;

/// Longest text of a progress line; the rest is cut off.
const PROGRESS_BYTES_MAX: usize = 1024;

/// The command that a message stands for, if any, and the bytes that it holds.
pub(super) fn command(
    conn: ConnId,
    message: Message,
    limits: &Limits,
) -> Result<Option<(Command, usize)>, Refused> {
    Ok(Some(match message {
        Message::Outcomes(frame) => outcomes(conn, frame, limits)?,
        Message::HandBack(frame) => {
            let leases = leases("hand_back.tokens", &frame.tasks, &frame.tokens)?;
            (Command::HandBack { conn, leases }, 0)
        }
        Message::Suspend(frame) => {
            let leases = leases("suspend.tokens", &frame.tasks, &frame.tokens)?;
            (Command::Suspend { conn, leases }, 0)
        }
        Message::Progress(frame) => {
            let entries = frame.entries.into_iter().map(progress).collect();
            (Command::Progress { conn, entries }, 0)
        }
        Message::Resize(resize) if resize.slots == 0 => {
            return Err(invalid("resize.slots", "at least 1"));
        }
        Message::Resize(resize) => (
            Command::WorkerResized {
                conn,
                slots: resize.slots,
            },
            0,
        ),
        Message::Drain(_) => (Command::WorkerDraining { conn }, 0),
        Message::Heartbeat(_) => return Ok(None),
        Message::Hello(_) => return Err(invalid("hello", "a worker says hello once")),
    }))
}

fn outcomes(
    conn: ConnId,
    frame: pb::OutcomeFrame,
    limits: &Limits,
) -> Result<(Command, usize), Refused> {
    const FIXED: usize = 64;
    let count = frame.tasks.len();
    full_column("outcomes.tokens", frame.tokens.len(), count)?;
    full_column("outcomes.payloads", frame.payloads.len(), count)?;
    let mut ended: Vec<Ended> = frame
        .payloads
        .into_iter()
        .map(|response| response_of(response, limits))
        .collect();
    for failure in frame.failures {
        let index = failure.index as usize;
        let slot = ended.get_mut(index).ok_or_else(|| {
            invalid(
                "outcomes.failures.index",
                format!("{index} is not an index of tasks"),
            )
        })?;
        let pause = retry_info_ms(&failure.details);
        *slot = Err((failures::incoming(failure, limits), pause));
    }
    let bytes = ended
        .iter()
        .map(|e| FIXED + e.as_ref().map_or(FIXED, Bytes::len))
        .sum();
    let ids = frame.tasks.into_iter().zip(frame.tokens);
    let outcome = |((task, token), result)| Outcome {
        task: TaskId(task),
        token: Token(token),
        result,
    };
    let outcomes = ids.zip(ended).map(outcome).collect();
    Ok((
        Command::Outcomes {
            conn,
            sequence: frame.sequence,
            outcomes,
        },
        bytes,
    ))
}

fn response_of(response: Bytes, limits: &Limits) -> Ended {
    match response.len() {
        size if size > limits.payload_bytes_max => Err((failures::oversize(size, limits), None)),
        _ => Ok(response),
    }
}

fn leases(field: &str, tasks: &[u64], tokens: &[u64]) -> Result<Vec<(TaskId, Token)>, Refused> {
    full_column(field, tokens.len(), tasks.len())?;
    Ok(tasks
        .iter()
        .zip(tokens)
        .map(|(task, token)| (TaskId(*task), Token(*token)))
        .collect())
}

fn progress(entry: pb::AttemptProgress) -> (TaskId, Token, f64, Arc<str>) {
    let pb::Progress { fraction, message } = entry.progress.unwrap_or_default();
    let fraction = if fraction.is_finite() {
        fraction.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let text = &message[..message.floor_char_boundary(PROGRESS_BYTES_MAX)];
    (
        TaskId(entry.task),
        Token(entry.token),
        fraction,
        Arc::from(text),
    )
}
