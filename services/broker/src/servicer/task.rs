//! `TaskService`: submitting, reading, cancelling and redriving tasks; queues.

use std::sync::Arc;

use plait::pb::v1 as pb;
use plait::pb::v1::task_service_server::TaskService;
use plait_broker_core::command::{Command, Submit, SubmitOrigin};
use plait_broker_core::effect::{Error, QueueView, Reply, TaskView};
use plait_broker_core::ids::{SessionId, TaskId};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status, Streaming};

use super::frames::{self, Methods};
use super::results::{UnsoundFrame, accepted_frame};
use super::{Answers, Context, listing, pages, submit_stream, validate, views, watch};
use crate::status::{Refused, invalid, refused};

/// Ids in one request.
const IDS_MAX: usize = 1000;

/// The longest request id, characters.
const REQUEST_ID_MAX: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub struct Tasks {
    context: Context,
}

impl Tasks {
    /// Serves the tasks of a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    async fn view(&self, id: TaskId) -> Result<TaskView, Status> {
        let found = self.context.partition.task(id).await?;
        found.ok_or_else(|| refused(&Error::TaskNotFound { task: id }).into())
    }

    async fn queue(&self, name: String) -> Result<pb::Queue, Status> {
        let wanted = name.clone();
        let find = move |p: &mut plait_broker_core::Partition, _| {
            p.queues().into_iter().find(|queue| *queue.name == *wanted)
        };
        let found = self.context.partition.query(find).await?;
        let missing = || {
            refused(&Error::QueueNotFound {
                queue: Arc::from(name.as_str()),
            })
        };
        Ok(views::queue(found.ok_or_else(missing)?))
    }
}

/// The task that an id names.
pub(super) fn task_id(field: &str, id: &str) -> Result<TaskId, Refused> {
    id.parse()
        .map_err(|error| invalid(field, format!("{id:?}: {error}")))
}

/// The tasks that ids name.
pub(super) fn task_ids(ids: &[String]) -> Result<Vec<TaskId>, Refused> {
    if ids.len() > IDS_MAX {
        return Err(invalid(
            "ids",
            format!("{} ids; at most {IDS_MAX}", ids.len()),
        ));
    }
    ids.iter()
        .enumerate()
        .map(|(index, id)| task_id(&format!("ids[{index}]"), id))
        .collect()
}

fn request_id(id: &str) -> Result<Option<SessionId>, Refused> {
    if id.is_empty() {
        return Ok(None);
    }
    if id.chars().count() > REQUEST_ID_MAX {
        return Err(invalid(
            "request_id",
            format!("at most {REQUEST_ID_MAX} characters"),
        ));
    }
    let mut short = SessionId::default();
    short.copy_from_slice(&Sha256::digest(id.as_bytes())[..16]);
    Ok(Some(short))
}

#[tonic::async_trait]
impl TaskService for Tasks {
    type SubmitStreamStream = Answers<pb::SubmitStreamResponse>;
    type WatchTaskStream = Answers<pb::WatchTaskResponse>;

    async fn submit_tasks(
        &self,
        request: Request<pb::SubmitTasksRequest>,
    ) -> Result<Response<pb::SubmitTasksResponse>, Status> {
        self.context.accepting()?;
        let request = request.into_inner();
        let request_id = request_id(&request.request_id)?;
        let tasks = request.tasks.unwrap_or_default();
        if tasks.payloads.is_empty() {
            return Err(invalid("tasks.payloads", "at least one task").into());
        }
        let frame = frames::check(tasks, &mut Methods::default(), &self.context.limits)?;
        let unsound = (!frame.refused.is_empty()).then_some(UnsoundFrame {
            positions: frame.positions,
            refused: frame.refused,
        });
        let (tasks, dry_run) = (frame.tasks, request.validate_only);
        let submit = |tag| {
            let origin = SubmitOrigin::Call {
                tag,
                request_id,
                dry_run,
            };
            Command::Submit(Submit {
                origin,
                await_results: false,
                tasks,
            })
        };
        let reply = self.context.partition.call(frame.bytes, submit).await?;
        let Reply::Accepted(acceptance) = reply else {
            return Err(unexpected("submission"));
        };
        let accepted = Some(accepted_frame(acceptance, unsound));
        Ok(Response::new(pb::SubmitTasksResponse { accepted }))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<pb::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        self.context.accepting()?;
        let answers = submit_stream::open(self.context.clone(), request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_task(
        &self,
        request: Request<pb::GetTaskRequest>,
    ) -> Result<Response<pb::GetTaskResponse>, Status> {
        let request = request.into_inner();
        let view = self.view(task_id("id", &request.id)?).await?;
        let full = views::is_full(request.view);
        let task = views::task(view, full, &self.context.partition).await?;
        Ok(Response::new(pb::GetTaskResponse { task: Some(task) }))
    }

    async fn batch_get_tasks(
        &self,
        request: Request<pb::BatchGetTasksRequest>,
    ) -> Result<Response<pb::BatchGetTasksResponse>, Status> {
        let request = request.into_inner();
        let full = views::is_full(request.view);
        let ids = task_ids(&request.ids)?;
        listing::check_full(full, ids.len())?;
        let mut found = Vec::with_capacity(ids.len());
        let looked = self.context.partition.tasks(ids.clone()).await?;
        for (task, view) in ids.into_iter().zip(looked) {
            found.push(view?.ok_or_else(|| refused(&Error::TaskNotFound { task }))?);
        }
        let tasks = listing::messages(&self.context, found, full).await?;
        Ok(Response::new(pb::BatchGetTasksResponse { tasks }))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        listing::list(&self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn watch_task(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let request = request.into_inner();
        let task = task_id("id", &request.id)?;
        let full = views::is_full(request.view);
        let answers = watch::open(self.context.clone(), task, full).await?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn cancel_task(
        &self,
        request: Request<pb::CancelTaskRequest>,
    ) -> Result<Response<pb::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        let task = task_id("id", &request.id)?;
        validate::reason("reason", &request.reason)?;
        let reason = Arc::from(request.reason);
        let cancel = |tag| Command::Cancel { tag, task, reason };
        let view = match self.context.partition.call(0, cancel).await? {
            Reply::Task(view) => *view,
            // It is final, and stays as it is.
            Reply::Archived(_) => self.view(task).await?,
            _ => return Err(unexpected("cancellation")),
        };
        let task = views::task(view, false, &self.context.partition).await?;
        Ok(Response::new(pb::CancelTaskResponse { task: Some(task) }))
    }

    async fn redrive_tasks(
        &self,
        request: Request<pb::RedriveTasksRequest>,
    ) -> Result<Response<pb::RedriveTasksResponse>, Status> {
        let redriven = listing::redrive(&self.context, request.into_inner()).await?;
        let redriven_count = i64::try_from(redriven).unwrap_or(i64::MAX);
        Ok(Response::new(pb::RedriveTasksResponse { redriven_count }))
    }

    async fn get_queue(
        &self,
        request: Request<pb::GetQueueRequest>,
    ) -> Result<Response<pb::GetQueueResponse>, Status> {
        let queue = Some(self.queue(request.into_inner().name).await?);
        Ok(Response::new(pb::GetQueueResponse { queue }))
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let request = request.into_inner();
        let size = pages::size(request.page_size, 1000, 1000)?;
        let after = pages::after(&request.page_token)?;
        let all = self.context.partition.query(|p, _| p.queues()).await?;
        let mut page: Vec<QueueView> = all
            .into_iter()
            .filter(|queue| *queue.name > *after)
            .take(size + 1)
            .collect();
        let more = page.len() > size;
        page.truncate(size);
        let last = page
            .last()
            .filter(|_| more)
            .map(|queue| queue.name.to_string());
        let queues = page.into_iter().map(views::queue).collect();
        Ok(Response::new(pb::ListQueuesResponse {
            queues,
            next_page_token: pages::token(last),
        }))
    }

    async fn pause_queue(
        &self,
        request: Request<pb::PauseQueueRequest>,
    ) -> Result<Response<pb::PauseQueueResponse>, Status> {
        let pb::PauseQueueRequest { name, reason } = request.into_inner();
        validate::queue_name(&name)?;
        validate::reason("reason", &reason)?;
        let (queue, reason) = (Arc::from(name.as_str()), Arc::from(reason));
        let pause = |tag| Command::PauseQueue { tag, queue, reason };
        self.context.partition.call(0, pause).await?;
        let queue = Some(self.queue(name).await?);
        Ok(Response::new(pb::PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        request: Request<pb::ResumeQueueRequest>,
    ) -> Result<Response<pb::ResumeQueueResponse>, Status> {
        let name = request.into_inner().name;
        validate::queue_name(&name)?;
        let queue = Arc::from(name.as_str());
        let resume = |tag| Command::ResumeQueue { tag, queue };
        self.context.partition.call(0, resume).await?;
        let queue = Some(self.queue(name).await?);
        Ok(Response::new(pb::ResumeQueueResponse { queue }))
    }
}

/// The state machine answered something that does not fit: a defect.
pub(super) fn unexpected(what: &str) -> Status {
    Status::internal(format!(
        "a {what} was answered by something that does not fit"
    ))
}
