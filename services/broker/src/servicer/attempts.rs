//! What a worker's stream is sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use plait::pb::v1::{self as pb, attach_response::Message};
use plait_broker_core::command::{Command, Outcome};
use plait_broker_core::effect::{Attempt, Effect, StopReason};
use plait_broker_core::ids::{ConnId, TaskId, Token};
use tonic::Status;

use super::{Context, blobs, failures, flag, options, split, times};
use crate::limits::Limits;
use crate::outbound::Outgoing;
use crate::status;

/// The number of outcomes that the broker itself tells in a worker's place. A worker counts its own from 1 and hears
/// nothing of these.
const UNNUMBERED: u64 = 0;

/// Numbers of frames on the wire and in the state machine. A frame of large payloads goes out as several, so the two
/// differ; a frame is received when the last of its parts is.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    state: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    sent: u64,
    /// The last part of each frame that is not acknowledged, and the frame.
    waiting: VecDeque<(u64, u64)>,
}

impl Numbering {
    /// The number on the wire of the next part.
    fn next(&self, last_of: Option<u64>) -> u64 {
        let mut numbers = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.sent += 1;
        let sent = numbers.sent;
        if let Some(frame) = last_of {
            numbers.waiting.push_back((sent, frame));
        }
        sent
    }

    /// The newest frame that is received in full when the wire's number is; none that is new, or a number that was
    /// never sent.
    pub(super) fn received(&self, sequence: u64) -> Option<u64> {
        let mut numbers = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = None;
        while let Some((_, frame)) = numbers.waiting.pop_front_if(|(part, _)| *part <= sequence) {
            newest = Some(frame);
        }
        newest
    }
}

/// Turns all that waits into messages to the worker on this stream.
pub(super) async fn messages(
    items: VecDeque<Outgoing>,
    context: &Context,
    conn: ConnId,
    numbering: &Numbering,
) -> Result<VecDeque<Message>, Status> {
    let mut out = VecDeque::with_capacity(items.len());
    for item in items {
        match item {
            Outgoing::Effect(Effect::Attempts {
                sequence, attempts, ..
            }) => {
                let bytes = |a: &Attempt| (a.request.len + a.envelope.len) as usize;
                let mut parts = split::frames(attempts, bytes).into_iter().peekable();
                while let Some(part) = parts.next() {
                    let last = parts.peek().is_none().then_some(sequence);
                    let part = sound(part, context, conn).await?;
                    out.push_back(Message::Attempts(frame(part, numbering.next(last))));
                }
            }
            Outgoing::Effect(Effect::Settled {
                sequence: UNNUMBERED,
                ..
            }) => {}
            Outgoing::Effect(Effect::Settled {
                sequence, refused, ..
            }) => {
                settled(&mut out, sequence, refused);
            }
            Outgoing::Effect(effect) => out.extend(simple(effect, &context.limits)),
            Outgoing::Drain { grace } => {
                out.push_back(Message::Drain(pb::BrokerDrain {
                    grace: times::duration(grace),
                }));
            }
            Outgoing::NotNow { .. } => {}
        }
    }
    Ok(out)
}

fn simple(effect: Effect, limits: &Limits) -> Option<Message> {
    match effect {
        Effect::WorkerWelcome { lost, flags, .. } => Some(Message::Welcome(pb::WorkerWelcome {
            heartbeat_interval: times::duration(limits.heartbeat_interval),
            lost: lost.into_iter().map(held).collect(),
            payload_bytes_max: limits.payload_bytes_max as u64,
            flags: flags
                .iter()
                .filter_map(|(_, value)| flag::rule(value))
                .collect(),
        })),
        Effect::FlagChanged { name, value, .. } => {
            let mut frame = pb::FlagFrame::default();
            match value.as_ref().and_then(flag::rule) {
                Some(rule) => frame.flags.push(rule),
                None => frame.removed.push(name.to_string()),
            }
            Some(Message::Flags(frame))
        }
        Effect::Stop { entries, .. } => {
            let entries = entries.into_iter().map(stopped).collect();
            Some(Message::Stop(pb::StopFrame { entries }))
        }
        _ => None,
    }
}

fn held((task, token): (TaskId, Token)) -> pb::HeldLease {
    pb::HeldLease {
        task: task.0,
        token: token.0,
    }
}

fn stopped((task, token, reason): (TaskId, Token, StopReason)) -> pb::StoppedAttempt {
    let reason = match reason {
        StopReason::Cancelled => pb::StopReason::Cancelled,
        StopReason::Expired => pb::StopReason::Expired,
        StopReason::AttemptTimedOut => pb::StopReason::AttemptTimedOut,
        StopReason::LeaseLost => pb::StopReason::LeaseLost,
    };
    pb::StoppedAttempt {
        task: task.0,
        token: token.0,
        reason: reason.into(),
    }
}

/// Settlements that follow each other become one: the later number covers the earlier.
fn settled(
    out: &mut VecDeque<Message>,
    sequence: u64,
    refused: Vec<(TaskId, Token, plait_broker_core::effect::Error)>,
) {
    let refused = refused
        .into_iter()
        .map(|(task, token, error)| pb::RefusedOutcome {
            task: task.0,
            token: token.0,
            status: Some(status::refused(&error).into_proto()),
        });
    if let Some(Message::Settled(last)) = out.back_mut() {
        last.sequence = last.sequence.max(sequence);
        last.refused.extend(refused);
        return;
    }
    out.push_back(Message::Settled(pb::SettledFrame {
        sequence,
        refused: refused.collect(),
    }));
}

/// The attempts whose payloads are what was submitted. The others fail here and now with DATA_LOSS, which is never
/// retried: no worker could do better, and every later attempt would end as this one.
async fn sound(
    mut attempts: Vec<Attempt>,
    context: &Context,
    conn: ConnId,
) -> Result<Vec<Attempt>, Status> {
    let blobs = attempts
        .iter_mut()
        .flat_map(|a| [&mut a.request, &mut a.envelope]);
    blobs::load(&context.partition, blobs).await?;
    if attempts.iter().all(|attempt| lost(attempt).is_none()) {
        return Ok(attempts);
    }
    let mut outcomes = Vec::new();
    attempts.retain(|attempt| {
        let lost = lost(attempt);
        outcomes.extend(lost.map(|payload| Outcome {
            task: attempt.task,
            token: attempt.token,
            result: Err((failures::lost(attempt.task, payload), Some(u64::MAX))),
        }));
        lost.is_none()
    });
    // A partition that is down has no leases left to end.
    let _ = context.partition.post(Command::Outcomes {
        conn,
        sequence: UNNUMBERED,
        outcomes,
    });
    Ok(attempts)
}

/// Which payload of an attempt that was loaded is lost.
fn lost(attempt: &Attempt) -> Option<&'static str> {
    if blobs::is_lost(&attempt.request) {
        return Some("request");
    }
    blobs::is_lost(&attempt.envelope).then_some("metadata")
}

/// Attempts as a message; empty if all of a frame were lost, so that the numbers have no gap.
fn frame(attempts: Vec<Attempt>, sequence: u64) -> pb::AttemptFrame {
    let count = attempts.len();
    let mut out = pb::AttemptFrame {
        sequence,
        tasks: Vec::with_capacity(count),
        tokens: Vec::with_capacity(count),
        method_index: Vec::new(),
        payloads: Vec::with_capacity(count),
        timeout_ms: Vec::with_capacity(count),
        extras: Vec::new(),
    };
    if attempts.iter().any(|attempt| attempt.method != 0) {
        out.method_index = attempts.iter().map(|attempt| attempt.method).collect();
    }
    for (index, mut attempt) in attempts.into_iter().enumerate() {
        out.tasks.push(attempt.task.0);
        out.tokens.push(attempt.token.0);
        out.timeout_ms.push(attempt.timeout_ms);
        let request = blobs::bytes(std::mem::take(&mut attempt.request));
        out.payloads.push(request.unwrap_or_default());
        out.extras.extend(extra(index as u32, attempt));
    }
    out
}

/// What is rare of an attempt, if there is anything.
fn extra(index: u32, attempt: Attempt) -> Option<pb::AttemptExtra> {
    if attempt.extra.is_none() && attempt.envelope.len == 0 && attempt.attempt == 1 {
        return None;
    }
    let metadata = options::metadata(&blobs::bytes(attempt.envelope).unwrap_or_default());
    let rare = attempt.extra.unwrap_or_default();
    let text = |text: Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    Some(pb::AttemptExtra {
        index,
        attempt: attempt.attempt,
        idempotency_key: text(rare.idempotency_key),
        recorded_children: rare.recorded_children,
        parent: rare.parent.map_or(0, |parent| parent.0),
        ordering_key: text(rare.ordering_key),
        create_time_ms: if metadata.is_empty() {
            0
        } else {
            attempt.created_at
        },
        metadata,
        flag_key: text(rare.flag_key),
        flags: flag::read(&rare.flags),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_received_when_its_last_part_is() {
        let numbering = Numbering::default();
        assert_eq!(numbering.next(None), 1);
        assert_eq!(numbering.next(Some(7)), 2);
        assert_eq!(numbering.next(Some(8)), 3);
        assert_eq!(numbering.received(1), None);
        assert_eq!(numbering.received(3), Some(8));
        assert_eq!(numbering.received(3), None);
    }
}
