//! Tasks and queues as readers see them.

use std::sync::Arc;

use plait::pb::v1 as pb;
use plait_broker_core::effect::{HeldBy, QueueView, TaskView, TimelineEvent};
use tonic::Status;

use super::{blobs, failures, options, times};
use crate::partition::Handle;
use crate::{states, status};

/// Whether an answer holds everything.
pub(super) fn is_full(view: i32) -> bool {
    pb::TaskView::try_from(view) == Ok(pb::TaskView::Full)
}

/// A task as a message. Payloads are read from the log if the view is full; DATA_LOSS if one is lost.
pub(super) async fn task(
    mut view: TaskView,
    full: bool,
    partition: &Handle,
) -> Result<pb::Task, Status> {
    if full {
        let blobs = [&mut view.request, &mut view.response, &mut view.envelope];
        blobs::load(partition, blobs.into_iter()).await?;
    }
    let request = std::mem::take(&mut view.request);
    let response = std::mem::take(&mut view.response);
    let envelope = std::mem::take(&mut view.envelope);
    let events = std::mem::take(&mut view.events);
    let id = view.id;
    let mut out = basic(view);
    out.request_size = i64::from(request.len);
    if full {
        let loaded = |blob, what| {
            blobs::bytes(blob).ok_or_else(|| Status::from(status::payload_lost(id, what)))
        };
        out.request = loaded(request, "request")?;
        out.response = loaded(response, "response")?;
        out.metadata = options::metadata(&loaded(envelope, "metadata")?);
        out.events = events.into_iter().map(event).collect();
    }
    Ok(out)
}

fn basic(view: TaskView) -> pb::Task {
    let text = |text: Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let mut out = pb::Task {
        id: view.id.to_string(),
        method: view.method.to_string(),
        queue: view.queue.to_string(),
        priority: i32::from(view.priority),
        attempt: i32::try_from(view.attempt).unwrap_or(i32::MAX),
        max_attempts: i32::try_from(view.max_attempts).unwrap_or(i32::MAX),
        worker: text(view.worker),
        idempotency_key: text(view.idempotency_key),
        ordering_key: text(view.ordering_key),
        create_time: times::timestamp(view.created_at),
        start_time: times::timestamp(view.start_at).filter(|_| view.start_at > view.created_at),
        expire_time: times::timestamp(view.expire_at),
        end_time: times::timestamp(view.ended_at),
        parent: view
            .parent
            .map(|(parent, _)| parent.to_string())
            .unwrap_or_default(),
        child_count: i64::try_from(view.child_count).unwrap_or(i64::MAX),
        dead_letter: view.dead_letter,
        error: view
            .failure
            .as_ref()
            .map(|failure| failures::status_of(view.id, failure)),
        progress: view.progress.map(|(fraction, message)| pb::Progress {
            fraction,
            message: message.to_string(),
        }),
        ..pb::Task::default()
    };
    out.set_state(states::to_wire(view.state));
    out
}

fn event(event: TimelineEvent) -> pb::TaskEvent {
    pb::TaskEvent {
        time: times::timestamp(event.at),
        state: states::to_wire(event.state).into(),
        attempt: i32::try_from(event.attempt).unwrap_or(i32::MAX),
        cause: event.cause.to_owned(),
        worker: event.worker.as_deref().unwrap_or_default().to_owned(),
    }
}

fn held((method, by, count): (Arc<str>, HeldBy, u64)) -> pb::HeldCount {
    pb::HeldCount {
        method: method.to_string(),
        by: states::held_by(by).into(),
        count: i64::try_from(count).unwrap_or(i64::MAX),
    }
}

/// A queue as a message.
pub(super) fn queue(view: QueueView) -> pb::Queue {
    let count = |(state, count): (_, u64)| pb::StateCount {
        state: states::to_wire(state).into(),
        count: i64::try_from(count).unwrap_or(i64::MAX),
    };
    pb::Queue {
        name: view.name.to_string(),
        paused: view.paused.is_some(),
        counts: view.counts.into_iter().map(count).collect(),
        oldest_ready_time: view.oldest_ready.and_then(times::timestamp),
        dead_letter_count: i64::try_from(view.dead_letters).unwrap_or(i64::MAX),
        methods: view
            .methods
            .iter()
            .map(|method| method.to_string())
            .collect(),
        worker_count: i32::try_from(view.workers).unwrap_or(i32::MAX),
        held: view.held.into_iter().map(held).collect(),
    }
}
