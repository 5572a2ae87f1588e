//! A call on its way through the durable channel: from a request to a submission, and from its outcome to a response.

use crate::attempt::Attempt;
use crate::channel::Slot;
use crate::client::Client;
use crate::clock;
use crate::contracts::Method;
use crate::deadline;
use crate::errors::{self, ErrorReason};
use crate::flow;
use crate::frame::{Framed, Unframed, Unframing};
use crate::keys;
use crate::metadata;
use crate::options::Options;
use crate::pb::v1::{KeyPath, Metadatum, TaskOptions};
use crate::placed::{Answer, Placed};
use crate::session::{Session, Submission, Ticket, Waiter};
use crate::trace;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::body::Body;

/// A call through a durable channel that is being answered.
pub enum Answering {
    /// The task is in the slot of whoever made the channel, who does not wait for an answer. There is one, an empty
    /// message, for a call that goes on elsewhere and asks again.
    Left {
        asked: bool,
    },
    Now(Option<Response<Body>>),
    Later(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

impl Answering {
    fn now(response: Response<Body>) -> Self {
        Self::Now(Some(response))
    }

    fn left() -> Self {
        Self::Left { asked: false }
    }

    fn later(answer: impl Future<Output = Response<Body>> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }

    /// The same, and an error when the deadline passes before.
    fn until(self, deadline: Option<Instant>) -> Self {
        match (self, deadline) {
            (Self::Later(answer), Some(deadline)) => Self::later(async move {
                let answer = tokio::time::timeout_at(deadline.into(), answer).await;
                answer.unwrap_or_else(|_| {
                    let status = Status::deadline_exceeded("the call's deadline passed");
                    respond((None, Err(status)))
                })
            }),
            (answering, _) => answering,
        }
    }
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answering = self.get_mut();
        match answering {
            Self::Left { asked: false } => {
                *answering = Self::Left { asked: true };
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Left { asked: true } => {
                *answering = Self::Now(None);
                Poll::Ready(Ok(respond((None, Ok(Bytes::new())))))
            }
            // Polled after it was ready, which no caller may do: then it stays pending.
            Self::Now(response) => response
                .take()
                .map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Later(answer) => answer.as_mut().poll(cx).map(Ok),
        }
    }
}

/// A request that a generated client made.
#[derive(Debug)]
pub(crate) struct Incoming {
    client: Arc<Client>,
    options: Arc<Options>,
    slot: Option<Arc<Slot>>,
    attempt: Option<Attempt>,
    deadline: Option<Instant>,
    metadata: Vec<Metadatum>,
    uri: http::Uri,
    body: Unframing,
}

impl Incoming {
    pub(crate) fn new(
        request: Request<Body>,
        client: Arc<Client>,
        options: Arc<Options>,
        slot: Option<Arc<Slot>>,
        detached: bool,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let timeout = parts.headers.get(metadata::TIMEOUT);
        let timeout = timeout.and_then(|value| deadline::decode_timeout(value.to_str().ok()?));
        Self {
            attempt: if detached { None } else { flow::of(&client) },
            deadline: timeout
                .and_then(|timeout| clock::now().checked_add(timeout))
                .into_iter()
                .chain(deadline::limit_at())
                .min(),
            metadata: metadata::from_headers(&parts.headers),
            uri: parts.uri,
            body: Unframing::new(body, "request"),
            client,
            options,
            slot,
        }
    }

    /// Answers with the result; or not at all, once the task is on its way and left in the slot.
    ///
    /// Nearly every call finds its method known, its request at hand and room in the session. Then it is on its way
    /// when this returns, and its future is small, because it only waits. The others go the long way.
    pub(crate) fn answer(mut self) -> Answering {
        let deadline = self.deadline;
        let answering = match self.order_now() {
            Some(Ok((order, slot))) => match order.place_now() {
                Placing::Placed(placed) => match slot {
                    Some(slot) => {
                        slot.put(placed);
                        Answering::left()
                    }
                    None => Answering::later(async move { respond(placed.done().await) }),
                },
                Placing::Refused(status) => Answering::now(respond((None, Err(status)))),
                Placing::Full(order) => Answering::later(order.perform(slot)),
            },
            Some(Err(status)) => Answering::now(respond((None, Err(status)))),
            None => Answering::later(self.perform()),
        };
        answering.until(deadline)
    }

    /// The order, if its method is known and its request at hand.
    fn order_now(&mut self) -> Option<Result<Ordered, Status>> {
        let method = self.client.contracts().known(self.uri.path())?;
        match Pin::new(&mut self.body).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(unframed) => Some(self.order(method, unframed)),
            Poll::Pending => None,
        }
    }

    fn order(
        &mut self,
        method: Arc<Method>,
        unframed: Result<Unframed, Status>,
    ) -> Result<Ordered, Status> {
        let payload = unframed?.payload;
        let order = Order {
            payload: payload.ok_or_else(|| Status::internal("the request holds no message"))?,
            span: trace::Submission::start(&method),
            awaited: self.slot.as_ref().is_none_or(|slot| slot.awaited),
            method,
            client: Arc::clone(&self.client),
            options: Arc::clone(&self.options),
            attempt: self.attempt.take(),
            deadline: self.deadline,
            metadata: std::mem::take(&mut self.metadata),
        };
        Ok((order, self.slot.take()))
    }

    /// The long way.
    async fn perform(mut self) -> Response<Body> {
        let order = match self.client.contracts().method(self.uri.path()).await {
            Ok(method) => {
                let unframed = (&mut self.body).await;
                self.order(method, unframed)
            }
            Err(status) => Err(status),
        };
        match order {
            Ok((order, slot)) => order.perform(slot).await,
            Err(status) => respond((None, Err(status))),
        }
    }
}

/// A call that is ready to be submitted.
#[derive(Debug)]
pub(crate) struct Order {
    client: Arc<Client>,
    options: Arc<Options>,
    attempt: Option<Attempt>,
    deadline: Option<Instant>,
    metadata: Vec<Metadatum>,
    method: Arc<Method>,
    payload: Bytes,
    span: trace::Submission,
    /// Whether the result is asked for with the submission; inside a flow it always is.
    awaited: bool,
}

/// An order, and where its task is to be left unless its result is waited for.
type Ordered = (Order, Option<Arc<Slot>>);

/// What came of an order at once.
enum Placing {
    Placed(Placed),
    Refused(Status),
    /// The session has no room now.
    Full(Order),
}

impl Order {
    fn place_now(mut self) -> Placing {
        match self.submission() {
            Ok(submission) => match self.client.session().submit_now(submission) {
                Ok(waiter) => Placing::Placed(Placed::new(self, waiter)),
                Err(submission) => {
                    self.payload = submission.payload;
                    Placing::Full(self)
                }
            },
            Err(status) => {
                self.end(None, Some(&status));
                Placing::Refused(status)
            }
        }
    }

    /// Submits once there is room, and answers unless the task goes to a slot.
    async fn perform(mut self, slot: Option<Arc<Slot>>) -> Response<Body> {
        let waiter = match self.place().await {
            Ok(waiter) => waiter,
            Err(status) => {
                self.end(None, Some(&status));
                return respond((None, Err(status)));
            }
        };
        let placed = Placed::new(self, waiter);
        match slot {
            Some(slot) => {
                slot.put(placed);
                Answering::left()
                    .await
                    .unwrap_or_else(|never| match never {})
            }
            None => respond(placed.done().await),
        }
    }

    /// Submits once there is room.
    async fn place(&mut self) -> Result<Waiter, Status> {
        let submission = self.submission()?;
        self.client.session().submit(submission).await
    }

    /// The broker knew the method once and was wiped since: asks, and announces, and submits once more.
    pub(crate) async fn place_again(&mut self, request: Bytes) -> Result<Waiter, Status> {
        self.payload = request;
        let contracts = self.client.contracts();
        contracts.forget(&self.method.path);
        self.method = contracts.method(&self.method.path).await?;
        self.place().await
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The attempt that the task is a child of.
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        self.attempt.as_ref()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ends its span, with the task's number unless it was refused.
    pub(crate) fn end(&mut self, task: Option<u64>, error: Option<&Status>) {
        self.span.end(task, error);
    }

    /// What goes to the session. It takes the request along, which comes back when it is refused.
    fn submission(&mut self) -> Result<Submission, Status> {
        let Method {
            idempotency_key,
            ordering_key,
            limit_key,
            ..
        } = &*self.method;
        let flow = self.attempt.as_ref().map(Attempt::flow);
        let awaited = self.awaited || flow.is_some();
        Ok(Submission {
            method: Arc::clone(&self.method),
            idempotency_key: self.key(self.options.key.as_ref(), idempotency_key.as_ref())?,
            ordering_key: self.key(self.options.ordering_key.as_ref(), ordering_key.as_ref())?,
            limit_key: self.key(None, limit_key.as_ref())?,
            options: self.task_options()?,
            ticket: Arc::new(Ticket::new(awaited, flow)),
            weight: Session::weight(&self.payload),
            payload: std::mem::take(&mut self.payload),
        })
    }

    /// A key given at call time, else the one in the request.
    fn key(&self, given: Option<&String>, path: Option<&KeyPath>) -> Result<Box<str>, Status> {
        match (given, path) {
            (Some(given), _) => Ok(given.as_str().into()),
            (None, None) => Ok(Box::default()),
            (None, Some(path)) => {
                keys::text(path, &self.payload)
                    .map(Into::into)
                    .map_err(|error| {
                        let (method, field) = (self.method.path.to_string(), path.path.clone());
                        let message = format!("reading the key {field:?} of {method}: {error}");
                        let metadata = [("method", method), ("field", field)];
                        errors::refusal(ErrorReason::InvalidRequest, message, metadata)
                    })
            }
        }
    }

    fn task_options(&self) -> Result<Option<Arc<TaskOptions>>, Status> {
        let mut metadata = self.metadata.clone();
        self.span.inject(&mut metadata);
        let plain = metadata.is_empty() && self.deadline.is_none() && self.options.is_plain();
        let parent = match &self.attempt {
            None if plain => return Ok(None),
            None => None,
            Some(attempt) => match &self.options.child_key {
                None if plain => return Ok(Some(attempt.child_options())),
                key => Some(attempt.flow_parent(key.clone().unwrap_or_default())),
            },
        };
        let options = self.options.to_task_options(self.left());
        Ok(Some(Arc::new(TaskOptions {
            metadata,
            parent,
            ..options
        })))
    }

    /// What is left of the caller's own deadline.
    fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(clock::now()))
    }
}

fn respond((task, outcome): Answer) -> Response<Body> {
    match outcome {
        Ok(payload) => {
            let mut response = Response::new(Body::new(Framed::response(payload)));
            let headers = response.headers_mut();
            headers.reserve(2);
            headers.insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            if let Some(Ok(id)) = task.map(|task| HeaderValue::from_bytes(&task.text())) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call holds one; beyond a kilobyte, allocating and moving it costs more than what it does.
    #[test]
    fn the_future_of_a_call_that_only_waits_is_small() {
        fn size<F: Future>(_: impl FnOnce(Placed) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(Placed::done) <= 1_024, "{}", size(Placed::done));
    }
}
