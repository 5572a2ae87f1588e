//! Single calls about tasks, and what their answers say.

use plait::pb::v1::task_service_client::TaskServiceClient;
use plait::pb::v1::{self as pb, TaskState};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::net;
use super::story::Shared;
use crate::history::{Event, State, Task, Told};

/// How a task's number is written.
fn text(task: u64) -> String {
    format!("t{task:016x}")
}

/// A state of the wire.
pub(super) fn state(state: i32) -> State {
    match TaskState::try_from(state) {
        Ok(TaskState::Succeeded) => State::Succeeded,
        Ok(TaskState::Failed) => State::Failed,
        Ok(TaskState::Cancelled) => State::Cancelled,
        Ok(TaskState::Expired) => State::Expired,
        _ => State::Unfinished,
    }
}

/// Why a submission was refused.
pub(super) fn reason(refusal: &pb::Refusal) -> &'static str {
    const KNOWN: [&str; 3] = ["DUPLICATE_KEY_CONFLICT", "QUEUE_FULL", "METHOD_UNKNOWN"];
    let details = refusal.status.iter().flat_map(|status| &status.details);
    // The reason is a text inside of ErrorInfo, whatever else is there.
    let has = |name: &str| {
        let mut details = details.clone();
        details.any(|detail| {
            let bytes = &detail.value;
            bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        })
    };
    KNOWN.into_iter().find(|name| has(name)).unwrap_or("OTHER")
}

/// What an answer tells of a task.
pub(super) fn told(task: u64, view: Option<&pb::Task>) -> Told {
    let state = view.map_or(State::NotFound, |view| state(view.state));
    let error = view.and_then(|view| view.error.as_ref());
    let failed = state.is_final() && state != State::Succeeded;
    Told {
        task: Task(task),
        state,
        code: match state {
            State::NotFound => 5,
            _ if failed => error.map_or(0, |error| error.code as u32),
            _ => 0,
        },
        digest: None,
        attempt: view.map(|view| view.attempt as u32),
        dead_letter: view.map(|view| view.dead_letter),
        broker_at: None,
    }
}

/// Looks at a task.
pub(super) async fn seen(channel: Channel, task: u64) -> Result<Told, Status> {
    let mut client = TaskServiceClient::new(channel);
    let request = pb::GetTaskRequest {
        id: text(task),
        view: 0,
    };
    match net::in_time(client.get_task(request)).await {
        Ok(answer) => Ok(told(task, answer.into_inner().task.as_ref())),
        Err(status) if status.code() == Code::NotFound => Ok(told(task, None)),
        Err(status) => Err(status),
    }
}

/// Looks at a task some time soon.
pub(super) fn get(story: &Shared, channel: &Channel, task: Option<u64>) {
    let (Some(task), channel, story) = (task, channel.clone(), story.clone()) else {
        return;
    };
    // An answer may be heard after something newer: that a task goes on tells something only if it had ended before.
    let ended = story.with(|story| story.ends.contains(&task));
    tokio::spawn(async move {
        if let Ok(told) = seen(channel, task).await
            && (ended || told.state != State::Unfinished)
        {
            story.tell(Event::Get(told));
        }
    });
}

/// Cancels a task.
pub(super) fn cancel(story: &Shared, channel: &Channel, task: Option<u64>) {
    let (Some(task), channel, story) = (task, channel.clone(), story.clone()) else {
        return;
    };
    story.tell(Event::CancelInvoke { task: Task(task) });
    tokio::spawn(async move {
        let mut client = TaskServiceClient::new(channel);
        let request = pb::CancelTaskRequest {
            id: text(task),
            reason: "simulation".to_owned(),
        };
        let answer = net::in_time(client.cancel_task(request)).await;
        story.tell(match answer {
            Ok(answer) => Event::CancelOk(told(task, answer.into_inner().task.as_ref())),
            Err(status) if status.code() == Code::NotFound => Event::Get(told(task, None)),
            Err(_) => Event::CancelInfo { task: Task(task) },
        });
    });
}
