//! Unary calls of the task service that many tests make.

use plait::pb::v1 as pb;
use tonic::Status;

use super::{Broker, id, soon};

/// A task with everything.
pub(crate) async fn get(broker: &Broker, task: u64) -> Result<pb::Task, Status> {
    let request = pb::GetTaskRequest {
        id: id(task),
        view: pb::TaskView::Full.into(),
    };
    Ok(broker
        .tasks()
        .get_task(request)
        .await?
        .into_inner()
        .task
        .unwrap())
}

/// Submits by a call of its own.
pub(crate) async fn submit(
    broker: &Broker,
    request_id: &str,
    validate_only: bool,
    tasks: pb::SubmitFrame,
) -> Result<pb::AcceptedFrame, Status> {
    let request_id = request_id.to_owned();
    let request = pb::SubmitTasksRequest {
        tasks: Some(tasks),
        request_id,
        validate_only,
    };
    Ok(broker
        .tasks()
        .submit_tasks(request)
        .await?
        .into_inner()
        .accepted
        .unwrap())
}

/// The task as it is when it reaches a state.
pub(crate) async fn until(broker: &Broker, task: u64, state: pb::TaskState) -> pb::Task {
    let request = pb::WatchTaskRequest {
        id: id(task),
        view: 0,
    };
    let mut watch = broker
        .tasks()
        .watch_task(request)
        .await
        .unwrap()
        .into_inner();
    loop {
        let change = soon("the state", watch.message()).await.unwrap();
        let task = change.expect("an open stream").task.unwrap();
        if task.state() == state {
            return task;
        }
    }
}
