//! The durable channel: a transport for the user's unchanged generated client.

use crate::attempt::Attempt;
use crate::client::Client;
use crate::clock;
use crate::contracts::{self, Method};
use crate::deadline;
use crate::errors::{self, ErrorReason};
use crate::flow;
use crate::frame::{Framed, unframe};
use crate::keys;
use crate::metadata;
use crate::options::Options;
use crate::pb::v1::{KeyPath, Metadatum, TaskOptions};
use crate::session::{Session, Submission, Ticket, Waiter};
use crate::task::TaskId;
use crate::trace;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::body::Body;

/// A transport for generated clients: `OrderServiceClient::new(p.channel())`. A call through it is a durable task, and
/// returns its result; a `grpc-timeout` of the call becomes the task's deadline and bounds the wait. When the caller
/// goes away, the task goes on. The response's metadata names the task in `plait-task-id`. Cheap to clone.
///
/// Only unary methods can be tasks.
#[derive(Debug, Clone)]
pub struct Channel {
    client: Arc<Client>,
    options: Options,
    slot: Option<Arc<Slot>>,
    detached: bool,
}

/// Where a submission through `Plait::submit` leaves what it made.
#[derive(Debug, Default)]
pub(crate) struct Slot(Mutex<Option<Submitted>>);

/// An accepted task and, inside a flow, the wait for its result.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) id: TaskId,
    pub(crate) waiter: Option<Waiter>,
}

impl Slot {
    pub(crate) fn take(&self) -> Option<Submitted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, submitted: Submitted) -> Result<(), Status> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Err(Status::failed_precondition(
                "the closure of a submission made two calls",
            ));
        }
        *slot = Some(submitted);
        Ok(())
    }
}

impl Channel {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            options: Options::new(),
            slot: None,
            detached: false,
        }
    }

    /// A channel that answers once the task is accepted, and leaves it in `slot`.
    pub(crate) fn submitting(client: Arc<Client>, slot: Arc<Slot>) -> Self {
        Self {
            slot: Some(slot),
            ..Self::new(client)
        }
    }

    /// The same channel with these options for every call, in place of those it had.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The same channel whose calls are ordinary tasks also inside a handler, and no children of its flow.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// See [`Options::key`].
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.options = self.options.key(key);
        self
    }

    /// See [`Options::ordering_key`].
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.options = self.options.ordering_key(key);
        self
    }

    /// See [`Options::child_key`].
    #[must_use]
    pub fn child_key(mut self, key: impl Into<String>) -> Self {
        self.options = self.options.child_key(key);
        self
    }

    /// See [`Options::delay`].
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options = self.options.delay(delay);
        self
    }

    /// See [`Options::deadline`].
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options = self.options.deadline(deadline);
        self
    }

    /// See [`Options::priority`].
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.options = self.options.priority(priority);
        self
    }
}

impl<B> tower::Service<Request<B>> for Channel
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { Ok(channel.answer(request).await) })
    }
}

/// What a call came to: the task, unless it was refused, and the response's bytes or the error.
type Answer = (Option<TaskId>, Result<Bytes, Status>);

impl Channel {
    async fn answer<B>(self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let timeout = request.headers().get(metadata::TIMEOUT);
        let timeout = timeout.and_then(|value| deadline::decode_timeout(value.to_str().ok()?));
        let deadline = timeout.and_then(|timeout| clock::now().checked_add(timeout));
        let call = self.call_until(request, deadline);
        let answer = match deadline {
            None => call.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), call).await {
                Ok(answer) => answer,
                Err(_) => (
                    None,
                    Err(Status::deadline_exceeded("the call's deadline passed")),
                ),
            },
        };
        respond(answer)
    }

    async fn call_until<B>(&self, request: Request<B>, deadline: Option<Instant>) -> Answer
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<tonic::codegen::StdError>,
    {
        match self.prepare(request, deadline).await {
            Ok(order) => self.perform(order).await,
            Err(status) => (None, Err(status)),
        }
    }

    async fn prepare<B>(
        &self,
        request: Request<B>,
        deadline: Option<Instant>,
    ) -> Result<Order, Status>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let (parts, body) = request.into_parts();
        let method = self.client.contracts().method(parts.uri.path()).await?;
        let payload = unframe(body, "request").await?.payload;
        let payload = payload.ok_or_else(|| Status::internal("the request holds no message"))?;
        let attempt = if self.detached {
            None
        } else {
            flow::of(&self.client)
        };
        Ok(Order {
            method,
            payload,
            headers: parts.headers,
            deadline,
            attempt,
        })
    }

    async fn perform(&self, mut order: Order) -> Answer {
        let span = trace::Submission::start(&order.method);
        let mut answer = self.submit(&order, &span).await;
        if matches!(&answer.1, Err(status) if contracts::is_unknown(status)) {
            // The broker knew it once and was wiped since: ask, and announce, once more.
            self.client.contracts().forget(&order.method.path);
            match self.client.contracts().method(&order.method.path).await {
                Ok(method) => {
                    order.method = method;
                    answer = self.submit(&order, &span).await;
                }
                Err(status) => answer = (None, Err(status)),
            }
        }
        span.end(answer.0.map(TaskId::number), answer.1.as_ref().err());
        answer
    }

    async fn submit(&self, order: &Order, span: &trace::Submission) -> Answer {
        let submission = match order.submission(&self.options, span, self.slot.is_none()) {
            Ok(submission) => submission,
            Err(status) => return (None, Err(status)),
        };
        let waiter = match self.client.session().submit(submission).await {
            Ok(waiter) => waiter,
            Err(status) => return (None, Err(status)),
        };
        match (&self.slot, &order.attempt) {
            (Some(slot), attempt) => accepted(slot, waiter, attempt.is_some()).await,
            (None, Some(attempt)) => match attempt.wait(waiter.done()).await {
                Ok((task, outcome)) => (task.map(TaskId), outcome),
                Err(status) => (None, Err(status)),
            },
            (None, None) => {
                let (task, outcome) = waiter.done().await;
                (task.map(TaskId), outcome)
            }
        }
    }
}

async fn accepted(slot: &Slot, waiter: Waiter, in_flow: bool) -> Answer {
    match waiter.accepted().await {
        Ok(task) => {
            let id = TaskId(task);
            let submitted = Submitted {
                id,
                waiter: in_flow.then_some(waiter),
            };
            (Some(id), slot.put(submitted).map(|()| Bytes::new()))
        }
        Err(status) => (None, Err(status)),
    }
}

/// A call that is ready to be submitted.
struct Order {
    method: Arc<Method>,
    payload: Bytes,
    headers: HeaderMap,
    deadline: Option<Instant>,
    attempt: Option<Attempt>,
}

impl Order {
    fn submission(
        &self,
        options: &Options,
        span: &trace::Submission,
        wait: bool,
    ) -> Result<Submission, Status> {
        let key = |given: &Option<String>, path: &Option<KeyPath>| match given {
            Some(given) => Ok(given.clone()),
            None => self.key(path),
        };
        let flow = self.attempt.as_ref().map(Attempt::flow);
        Ok(Submission {
            method: Arc::clone(&self.method),
            payload: self.payload.clone(),
            idempotency_key: key(&options.key, &self.method.idempotency_key)?,
            ordering_key: key(&options.ordering_key, &self.method.ordering_key)?,
            options: self.task_options(options, span)?,
            ticket: Arc::new(Ticket::new(wait || flow.is_some(), flow)),
            weight: Session::weight(&self.payload),
        })
    }

    fn key(&self, path: &Option<KeyPath>) -> Result<String, Status> {
        let Some(path) = path else {
            return Ok(String::new());
        };
        keys::text(path, &self.payload).map_err(|error| {
            let message = format!(
                "reading the key {:?} of {}: {error}",
                path.path, self.method.path
            );
            let metadata = [
                ("method", self.method.path.to_string()),
                ("field", path.path.clone()),
            ];
            errors::refusal(ErrorReason::InvalidRequest, message, metadata)
        })
    }

    fn task_options(
        &self,
        options: &Options,
        span: &trace::Submission,
    ) -> Result<Option<Arc<TaskOptions>>, Status> {
        let mut metadata: Vec<Metadatum> = metadata::from_headers(&self.headers);
        span.inject(&mut metadata);
        let limit_key = self.key(&self.method.limit_key)?;
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(clock::now()));
        let plain =
            metadata.is_empty() && limit_key.is_empty() && left.is_none() && options.is_plain();
        let Some(attempt) = &self.attempt else {
            let built = || TaskOptions {
                metadata,
                limit_key,
                ..options.to_task_options(left)
            };
            return Ok((!plain).then(|| Arc::new(built())));
        };
        if plain && options.child_key.is_none() {
            return Ok(Some(attempt.child_options()));
        }
        let parent = attempt.flow_parent(options.child_key.clone().unwrap_or_default());
        let built = TaskOptions {
            metadata,
            limit_key,
            parent: Some(parent),
            ..options.to_task_options(left)
        };
        Ok(Some(Arc::new(built)))
    }
}

fn respond((task, outcome): Answer) -> Response<Body> {
    match outcome {
        Ok(payload) => {
            let mut response = Response::new(Body::new(Framed::response(payload)));
            let headers = response.headers_mut();
            headers.insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            if let Some(Ok(id)) = task.map(|task| task.to_string().try_into()) {
                headers.insert(metadata::TASK_ID, id);
            }
            response
        }
        Err(mut status) => {
            if let Some(task) = task {
                errors::name_task(&mut status, task);
            }
            status.into_http()
        }
    }
}
