//! What a submitter's stream is sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use plait::pb::v1::{self as pb, submit_stream_response::Message};
use plait_broker_core::command::Command;
use plait_broker_core::effect::{Effect, TaskResult, TaskState};
use plait_broker_core::ids::{ConnId, TaskId};
use plait_broker_core::record::Acceptance;
use tonic::Status;

use super::{Context, blobs, failures, split, times};
use crate::outbound::Outgoing;
use crate::partition::Handle;
use crate::status::{self, Refused};

/// What the stream's two sides share: tasks of frames on their way that were refused before the state machine saw them.
#[derive(Debug, Default)]
pub(super) struct Unsound {
    frames: Mutex<HashMap<u64, UnsoundFrame>>,
}

/// What is left out of a frame, and where the rest of it stood.
#[derive(Debug)]
pub(super) struct UnsoundFrame {
    pub(super) positions: Vec<u32>,
    pub(super) refused: Vec<(u32, Refused)>,
}

impl Unsound {
    pub(super) fn remember(&self, sequence: u64, frame: UnsoundFrame) {
        self.frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sequence, frame);
    }

    fn take(&self, sequence: u64) -> Option<UnsoundFrame> {
        self.frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&sequence)
    }
}

/// The state machine's answer and the shell's own refusals, as one.
pub(super) fn accepted_frame(
    acceptance: Acceptance,
    unsound: Option<UnsoundFrame>,
) -> pb::AcceptedFrame {
    let refusals = acceptance.refusals.iter().map(|refusal| pb::Refusal {
        index: refusal.index,
        status: Some(status::refused(&refusal.error).into_proto()),
    });
    let mut out = pb::AcceptedFrame {
        refusals: refusals.collect(),
        existing: acceptance.existing,
        tasks: acceptance.tasks,
    };
    let Some(UnsoundFrame { positions, refused }) = unsound else {
        return out;
    };
    let position = |index: u32| positions.get(index as usize).copied().unwrap_or(index);
    let mut tasks = vec![0; positions.len() + refused.len()];
    for (task, position) in out.tasks.iter().zip(&positions) {
        tasks[*position as usize] = *task;
    }
    out.tasks = tasks;
    out.existing
        .iter_mut()
        .for_each(|index| *index = position(*index));
    out.refusals
        .iter_mut()
        .for_each(|refusal| refusal.index = position(refusal.index));
    out.refusals
        .extend(refused.into_iter().map(|(index, refused)| pb::Refusal {
            index,
            status: Some(refused.into_proto()),
        }));
    out.refusals.sort_unstable_by_key(|refusal| refusal.index);
    out
}

/// Turns all that waits into as few messages as can be: acceptances first, which no result may overtake, then results.
pub(super) async fn messages(
    items: VecDeque<Outgoing>,
    context: &Context,
    unsound: &Unsound,
) -> Result<VecDeque<Message>, Status> {
    let mut out = VecDeque::with_capacity(items.len());
    let mut results: Vec<TaskResult> = Vec::new();
    for item in items {
        let effect = match item {
            Outgoing::Effect(effect) => effect,
            Outgoing::NotNow { sequence, pause } => {
                out.push_back(Message::Accepted(pb::SequencedAccepted {
                    sequence,
                    accepted: None,
                    retry_after: times::duration(pause),
                }));
                continue;
            }
            Outgoing::Drain { .. } => continue,
        };
        match effect {
            Effect::SessionOpened { last_sequence, .. } => {
                out.push_back(Message::Welcome(pb::SessionWelcome {
                    last_sequence,
                    payload_bytes_max: context.limits.payload_bytes_max as u64,
                    frame_tasks_max: context.limits.frame_tasks_max as u32,
                    synced: context.synced,
                }));
            }
            Effect::Accepted {
                sequence,
                acceptance,
                ..
            } => {
                let accepted = accepted_frame(acceptance, unsound.take(sequence));
                out.push_back(Message::Accepted(pb::SequencedAccepted {
                    sequence,
                    accepted: Some(accepted),
                    retry_after: None,
                }));
            }
            Effect::Results { results: more, .. } => match results.is_empty() {
                true => results = more,
                false => results.extend(more),
            },
            Effect::ResultsArchived { conn, tasks } => {
                results.extend(archived(context, conn, tasks).await?);
            }
            _ => {}
        }
    }
    let bytes = |result: &TaskResult| result.result.as_ref().map_or(0, |r| r.len as usize);
    for frame in split::frames(results, bytes) {
        let frame = result_frame(frame, &context.partition).await?;
        out.push_back(Message::Results(frame));
    }
    Ok(out)
}

/// Results of tasks that are not in memory.
async fn archived(
    context: &Context,
    conn: ConnId,
    tasks: Vec<TaskId>,
) -> Result<Vec<TaskResult>, Status> {
    let unreadable = |task| TaskResult {
        task,
        result: Err((TaskState::Failed, failures::lost(task, "record"))),
    };
    let (results, open) = context.partition.results(tasks, unreadable).await?;
    if !open.is_empty() {
        // Somebody runs them again: now they can be awaited.
        let bytes = 16 * open.len();
        let again = Command::Await {
            conn,
            tasks: open,
            forget: Vec::new(),
            parent: None,
        };
        context.partition.send(again, bytes).await?;
    }
    Ok(results)
}

async fn result_frame(
    mut results: Vec<TaskResult>,
    partition: &Handle,
) -> Result<pb::ResultFrame, Status> {
    let blobs = results
        .iter_mut()
        .filter_map(|result| result.result.as_mut().ok());
    blobs::load(partition, blobs).await?;
    let mut out = pb::ResultFrame {
        tasks: Vec::with_capacity(results.len()),
        payloads: Vec::with_capacity(results.len()),
        failures: Vec::new(),
    };
    for (index, TaskResult { task, result }) in results.into_iter().enumerate() {
        out.tasks.push(task.0);
        let ended = result.and_then(|response| {
            // The waiter is told for good: asked again, the log would say the same.
            let lost = || (TaskState::Succeeded, failures::lost(task, "response"));
            blobs::bytes(response).ok_or_else(lost)
        });
        let response = ended.unwrap_or_else(|(state, failure)| {
            out.failures
                .push(failures::outgoing(index as u32, task, state, failure));
            Bytes::new()
        });
        out.payloads.push(response);
    }
    Ok(out)
}
