//! Parts of a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::plait::log::v1::{self as pb, record::Fact};
use plait_broker_core::effect::{self, TaskState, TimelineEvent};
use plait_broker_core::ids::{TaskId, Token};
use plait_broker_core::image::{Image, TaskImage};
use plait_broker_core::record::{Acceptance, Blob, NewTask};

use super::JournalError;
use super::decode::{self, Decoder};
use super::encode::{acceptance_of, child_of, failure};
use crate::states;

pub(super) fn encode(part: Image) -> Result<Fact, JournalError> {
    Ok(match part {
        Image::Counters {
            next_task,
            kv_version,
            time,
        } => Fact::Counters(pb::Counters {
            next_task,
            entry_version: kv_version,
            time_ms: time,
        }),
        Image::Tasks(tasks) => Fact::TaskImages(images(&tasks)?),
        Image::Session {
            session,
            last_used,
            answers,
        } => {
            let answer = |(sequence, acceptance): &(u64, Acceptance)| pb::SessionAnswer {
                sequence: *sequence,
                acceptance: Some(acceptance_of(acceptance)),
            };
            Fact::SessionImage(pb::SessionImage {
                session: Bytes::copy_from_slice(&session),
                last_used_ms: last_used,
                answers: answers.iter().map(answer).collect(),
            })
        }
    })
}

fn images(tasks: &[TaskImage]) -> Result<pb::TaskImages, JournalError> {
    let mut methods: Vec<String> = Vec::new();
    let mut out = Vec::with_capacity(tasks.len());
    for task in tasks {
        let found = methods
            .iter()
            .rposition(|method| **method == *task.task.method);
        let method = found.unwrap_or_else(|| {
            methods.push(task.task.method.to_string());
            methods.len() - 1
        });
        out.push(image(task, method as u32)?);
    }
    Ok(pb::TaskImages {
        methods,
        tasks: out,
    })
}

fn image(image: &TaskImage, method: u32) -> Result<pb::TaskImage, JournalError> {
    let task = &image.task;
    Ok(pb::TaskImage {
        task: task.id.0,
        method,
        priority: u32::from(task.priority),
        start_ms: task.start_at,
        expire_ms: task.expire_at,
        idempotency_key: text(task.idempotency_key.as_deref()),
        ordering_key: text(task.ordering_key.as_deref()),
        limit_key: text(task.limit_key.as_deref()),
        child: task.parent.as_ref().map(child_of),
        digest: match task.digest {
            0 => Bytes::new(),
            digest => Bytes::copy_from_slice(&digest.to_be_bytes()),
        },
        request: stored(&task.request)?,
        envelope: stored(&task.envelope)?,
        create_ms: image.created_at,
        state: states::to_wire(image.state).into(),
        attempt: image.attempt,
        backoff_step: image.backoff_step,
        token: image.token.0,
        worker: image.worker.as_deref().map(str::to_owned),
        key_until_ms: image.key_until,
        end_ms: image.ended_at,
        response: stored(&image.response)?,
        failure: image.failure.as_ref().map(failure),
        dead_letter: image.dead_letter,
        events: image.events.iter().map(event).collect(),
    })
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// Where the log has the blob. One that is not in the log yet can be in no snapshot.
fn stored(blob: &Blob) -> Result<Option<pb::StoredBlob>, JournalError> {
    match (blob.len, blob.at) {
        (0, _) => Ok(None),
        (len, Some(at)) => Ok(Some(pb::StoredBlob { at, len })),
        (_, None) => Err(JournalError::PayloadMissing),
    }
}

fn event(event: &TimelineEvent) -> pb::TimelineEvent {
    pb::TimelineEvent {
        time_ms: event.at,
        state: states::to_wire(event.state).into(),
        attempt: event.attempt,
        cause: event.cause.to_owned(),
        worker: event.worker.as_deref().map(str::to_owned),
    }
}

pub(super) fn counters(counters: &pb::Counters) -> Image {
    Image::Counters {
        next_task: counters.next_task,
        kv_version: counters.entry_version,
        time: counters.time_ms,
    }
}

pub(super) fn session(session: &pb::SessionImage) -> Result<Image, JournalError> {
    let answer = |answer: &pb::SessionAnswer| {
        let acceptance = answer.acceptance.clone().unwrap_or_default();
        Ok((answer.sequence, decode::acceptance_of(&acceptance)?))
    };
    Ok(Image::Session {
        session: decode::session_id(&session.session)?,
        last_used: session.last_used_ms,
        answers: session
            .answers
            .iter()
            .map(answer)
            .collect::<Result<_, JournalError>>()?,
    })
}

pub(super) fn tasks(decoder: &mut Decoder, images: pb::TaskImages) -> Result<Image, JournalError> {
    let methods: Vec<Arc<str>> = images.methods.iter().map(|m| decoder.name(m)).collect();
    let task = |image: pb::TaskImage| {
        let method = methods.get(image.method as usize);
        let method = method.ok_or(JournalError::Unknown { field: "method" })?;
        task(decoder, Arc::clone(method), image)
    };
    Ok(Image::Tasks(
        images
            .tasks
            .into_iter()
            .map(task)
            .collect::<Result<_, _>>()?,
    ))
}

fn task(
    decoder: &mut Decoder,
    method: Arc<str>,
    image: pb::TaskImage,
) -> Result<TaskImage, JournalError> {
    let task = NewTask {
        id: TaskId(image.task),
        method,
        priority: decode::priority(image.priority)?,
        start_at: image.start_ms,
        expire_at: image.expire_ms,
        idempotency_key: decode::key(&image.idempotency_key),
        ordering_key: decode::key(&image.ordering_key),
        limit_key: decode::key(&image.limit_key),
        parent: image.child.as_ref().map(decode::child).transpose()?,
        digest: if image.digest.is_empty() {
            0
        } else {
            decode::digest(&image.digest)?
        },
        request: blob(image.request),
        envelope: blob(image.envelope),
    };
    let events = image.events.iter().map(|event| timeline(decoder, event));
    Ok(TaskImage {
        task,
        created_at: image.create_ms,
        state: state(image.state)?,
        attempt: image.attempt,
        backoff_step: image.backoff_step,
        token: Token(image.token),
        events: events.collect::<Result<_, _>>()?,
        worker: image.worker.map(|worker| decoder.name(&worker)),
        key_until: image.key_until_ms,
        ended_at: image.end_ms,
        response: blob(image.response),
        failure: image
            .failure
            .map(|failure| decode::failure(Some(failure)))
            .transpose()?,
        dead_letter: image.dead_letter,
    })
}

fn blob(blob: Option<pb::StoredBlob>) -> Blob {
    match blob {
        Some(blob) if blob.len > 0 => Blob::stored(blob.at, blob.len),
        _ => Blob::default(),
    }
}

fn state(state: i32) -> Result<TaskState, JournalError> {
    states::from_wire(state).ok_or(JournalError::Unknown { field: "state" })
}

fn timeline(
    decoder: &mut Decoder,
    event: &pb::TimelineEvent,
) -> Result<TimelineEvent, JournalError> {
    Ok(TimelineEvent {
        at: event.time_ms,
        state: state(event.state)?,
        attempt: event.attempt,
        cause: effect::cause(&event.cause),
        worker: event.worker.as_deref().map(|worker| decoder.name(worker)),
    })
}
