//! A call on its way through the durable channel: from a request to a submission, and from its outcome to a response.

use crate::attempt::Attempt;
use crate::channel::{Slot, Submitted};
use crate::client::Client;
use crate::clock;
use crate::contracts::{self, Method};
use crate::deadline;
use crate::errors::{self, ErrorReason};
use crate::flow;
use crate::frame::{Framed, Unframed, Unframing};
use crate::keys;
use crate::metadata;
use crate::options::Options;
use crate::pb::v1::{KeyPath, Metadatum, TaskOptions};
use crate::session::{Session, Submission, Ticket, Waiter};
use crate::task::TaskId;
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

/// What a call came to: the task, unless it was refused, and the response's bytes or the error.
type Answer = (Option<TaskId>, Result<Bytes, Status>);

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Answers a request: with the result, or with `slot` once the task is accepted.
///
/// Nearly every call finds its method known, its request at hand and room in the session. Then it is on its way when
/// this returns, and its future is small, because it only waits. The others go the long way.
pub(crate) fn answer(mut incoming: Incoming, slot: Option<Arc<Slot>>) -> Answering {
    let deadline = incoming.deadline;
    let answering: Answering = match incoming.order_now(slot.as_ref()) {
        Some(Ok(mut order)) => match order.submit_now() {
            Some(Ok(waiter)) => Box::pin(async move { Ok(order.finish(waiter).await) }),
            Some(Err(status)) => {
                Box::pin(std::future::ready(Ok(order.conclude((None, Err(status))))))
            }
            None => Box::pin(async move { Ok(order.perform().await) }),
        },
        Some(Err(status)) => Box::pin(std::future::ready(Ok(respond((None, Err(status)))))),
        None => Box::pin(async move { Ok(incoming.perform(slot).await) }),
    };
    match deadline {
        None => answering,
        Some(deadline) => Box::pin(async move {
            let answer = tokio::time::timeout_at(deadline.into(), answering).await;
            answer.unwrap_or_else(|_| {
                let status = Status::deadline_exceeded("the call's deadline passed");
                Ok(respond((None, Err(status))))
            })
        }),
    }
}

/// A request that a generated client made.
#[derive(Debug)]
pub(crate) struct Incoming {
    client: Arc<Client>,
    options: Arc<Options>,
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
        detached: bool,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let timeout = parts.headers.get(metadata::TIMEOUT);
        let timeout = timeout.and_then(|value| deadline::decode_timeout(value.to_str().ok()?));
        Self {
            attempt: if detached { None } else { flow::of(&client) },
            deadline: timeout.and_then(|timeout| clock::now().checked_add(timeout)),
            metadata: metadata::from_headers(&parts.headers),
            uri: parts.uri,
            body: Unframing::new(body, "request"),
            client,
            options,
        }
    }

    /// The order, if its method is known and its request at hand.
    fn order_now(&mut self, slot: Option<&Arc<Slot>>) -> Option<Result<Order, Status>> {
        let method = self.client.contracts().known(self.uri.path())?;
        match Pin::new(&mut self.body).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(unframed) => Some(self.order(method, unframed, slot.cloned())),
            Poll::Pending => None,
        }
    }

    fn order(
        &mut self,
        method: Arc<Method>,
        unframed: Result<Unframed, Status>,
        slot: Option<Arc<Slot>>,
    ) -> Result<Order, Status> {
        let payload = unframed?.payload;
        Ok(Order {
            payload: payload.ok_or_else(|| Status::internal("the request holds no message"))?,
            span: trace::Submission::start(&method),
            again: false,
            method,
            slot,
            client: Arc::clone(&self.client),
            options: Arc::clone(&self.options),
            attempt: self.attempt.take(),
            deadline: self.deadline,
            metadata: std::mem::take(&mut self.metadata),
        })
    }

    /// The long way.
    async fn perform(mut self, slot: Option<Arc<Slot>>) -> Response<Body> {
        let order = match self.client.contracts().method(self.uri.path()).await {
            Ok(method) => {
                let unframed = (&mut self.body).await;
                self.order(method, unframed, slot)
            }
            Err(status) => Err(status),
        };
        match order {
            Ok(order) => order.perform().await,
            Err(status) => respond((None, Err(status))),
        }
    }
}

/// A call that is ready to be submitted.
#[derive(Debug)]
struct Order {
    client: Arc<Client>,
    slot: Option<Arc<Slot>>,
    options: Arc<Options>,
    attempt: Option<Attempt>,
    deadline: Option<Instant>,
    metadata: Vec<Metadatum>,
    method: Arc<Method>,
    payload: Bytes,
    span: trace::Submission,
    /// Whether the method was unknown once.
    again: bool,
}

impl Order {
    /// Submits if there is room at once. `None`: there is not.
    fn submit_now(&mut self) -> Option<Result<Waiter, Status>> {
        match self.submission() {
            Ok(submission) => match self.client.session().submit_now(submission) {
                Ok(waiter) => Some(Ok(waiter)),
                Err(submission) => {
                    self.payload = submission.payload;
                    None
                }
            },
            Err(status) => Some(Err(status)),
        }
    }

    /// Submits and answers.
    async fn perform(mut self) -> Response<Body> {
        let answer = self.submit().await;
        self.conclude(answer)
    }

    async fn submit(&mut self) -> Answer {
        let submission = match self.submission() {
            Ok(submission) => submission,
            Err(status) => return (None, Err(status)),
        };
        match self.client.session().submit(submission).await {
            Ok(waiter) => self.wait(waiter).await,
            Err(status) => (None, Err(status)),
        }
    }

    /// Answers once what was submitted is done.
    async fn finish(mut self, waiter: Waiter) -> Response<Body> {
        let answer = self.wait(waiter).await;
        self.conclude(answer)
    }

    async fn wait(&mut self, waiter: Waiter) -> Answer {
        let in_flow = self.attempt.is_some();
        let (task, outcome) = match (&self.slot, &self.attempt) {
            (Some(_), _) => match waiter.accepted().await {
                Ok(task) => (Some(task), Ok(Bytes::new())),
                Err(status) => (None, Err(status)),
            },
            (None, None) => waiter.done().await,
            (None, Some(attempt)) => match attempt.wait(waiter.done()).await {
                Ok(done) => done,
                Err(status) => (None, Err(status)),
            },
        };
        if matches!(&outcome, Err(status) if task.is_none() && contracts::is_unknown(status))
            && !self.again
        {
            self.payload = waiter.refused_request();
            return Box::pin(self.submit_again()).await;
        }
        let id = task.map(TaskId);
        match (&self.slot, id) {
            (Some(slot), Some(task)) => {
                let submitted = Submitted {
                    id: task,
                    waiter: in_flow.then_some(waiter),
                };
                (id, slot.put(submitted).and(outcome))
            }
            _ => (id, outcome),
        }
    }

    /// The broker knew the method once and was wiped since: asks, and announces, once more.
    async fn submit_again(&mut self) -> Answer {
        self.again = true;
        let contracts = self.client.contracts();
        contracts.forget(&self.method.path);
        match contracts.method(&self.method.path).await {
            Ok(method) => {
                self.method = method;
                self.submit().await
            }
            Err(status) => (None, Err(status)),
        }
    }

    fn conclude(self, answer: Answer) -> Response<Body> {
        self.span
            .end(answer.0.map(TaskId::number), answer.1.as_ref().err());
        respond(answer)
    }

    /// What goes to the session. It takes the request along, which comes back when it is refused.
    fn submission(&mut self) -> Result<Submission, Status> {
        let Method {
            idempotency_key,
            ordering_key,
            ..
        } = &*self.method;
        let flow = self.attempt.as_ref().map(Attempt::flow);
        let awaited = self.slot.is_none() || flow.is_some();
        Ok(Submission {
            method: Arc::clone(&self.method),
            idempotency_key: self.key(self.options.key.as_ref(), idempotency_key.as_ref())?,
            ordering_key: self.key(self.options.ordering_key.as_ref(), ordering_key.as_ref())?,
            options: self.task_options()?,
            ticket: Arc::new(Ticket::new(awaited, flow)),
            weight: Session::weight(&self.payload),
            payload: std::mem::take(&mut self.payload),
        })
    }

    /// A key given at call time, else the one in the request.
    fn key(&self, given: Option<&String>, path: Option<&KeyPath>) -> Result<String, Status> {
        match (given, path) {
            (Some(given), _) => Ok(given.clone()),
            (None, None) => Ok(String::new()),
            (None, Some(path)) => keys::text(path, &self.payload).map_err(|error| {
                let (method, field) = (self.method.path.to_string(), path.path.clone());
                let message = format!("reading the key {field:?} of {method}: {error}");
                let metadata = [("method", method), ("field", field)];
                errors::refusal(ErrorReason::InvalidRequest, message, metadata)
            }),
        }
    }

    fn task_options(&self) -> Result<Option<Arc<TaskOptions>>, Status> {
        let mut metadata = self.metadata.clone();
        self.span.inject(&mut metadata);
        let limit_key = self.key(None, self.method.limit_key.as_ref())?;
        let plain = metadata.is_empty()
            && limit_key.is_empty()
            && self.deadline.is_none()
            && self.options.is_plain();
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
            limit_key,
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
            if let Some(Ok(id)) = task.map(|task| HeaderValue::from_maybe_shared(task.text())) {
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
        fn size<F: Future>(_: impl FnOnce(Order, Waiter) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(Order::finish) <= 1_024, "{}", size(Order::finish));
    }
}
