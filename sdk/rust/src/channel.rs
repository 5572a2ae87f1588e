//! The durable channel: a transport for the user's unchanged generated client.

use crate::client::Client;
use crate::options::Options;
use crate::order::{Answering, Incoming};
use crate::placed::Placed;
use http::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
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
    options: Arc<Options>,
    slot: Option<Arc<Slot>>,
    detached: bool,
}

/// Where a call of `Plait::submit` and its like leaves its task as soon as it is on its way.
///
/// That call is not answered: its future is dropped instead. A generated client makes several times as much of an
/// answer, even of an empty one, as of everything before it.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Whether the result is asked for with the submission.
    pub(crate) awaited: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    placed: Option<Result<Placed, Status>>,
    /// Of the caller, when its call is being made elsewhere.
    waker: Option<Waker>,
}

impl Slot {
    pub(crate) fn new(awaited: bool) -> Self {
        Self {
            awaited,
            inner: Mutex::default(),
        }
    }

    /// Goes on with a call until its task is in the slot. The call is over then, whatever it still has to do.
    /// FAILED_PRECONDITION when it ends and left nothing.
    pub(crate) fn poll<R>(
        &self,
        call: Pin<&mut impl Future<Output = Result<R, Status>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Placed, Status>> {
        let polled = call.poll(cx);
        let mut inner = self.lock();
        match (polled, inner.placed.take()) {
            (Poll::Ready(Err(status)), _) => Poll::Ready(Err(status)),
            (_, Some(placed)) => Poll::Ready(placed),
            (Poll::Ready(Ok(_)), None) => Poll::Ready(Err(Status::failed_precondition(
                "the closure of a submission made no call",
            ))),
            (Poll::Pending, None) => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Leaves a task. A second one makes an error of both.
    pub(crate) fn put(&self, placed: Placed) {
        let mut inner = self.lock();
        let before = inner.placed.take();
        let after = match &before {
            None => Ok(placed),
            Some(_) => Err(Status::failed_precondition(
                "the closure of a submission made two calls",
            )),
        };
        inner.placed = Some(after);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            options: Arc::default(),
            slot: None,
            detached: false,
        }
    }

    /// A channel that leaves tasks in `slot` and does not answer.
    pub(crate) fn submitting(client: Arc<Client>, slot: Arc<Slot>) -> Self {
        Self {
            slot: Some(slot),
            ..Self::new(client)
        }
    }

    /// The same channel with these options for every call, in place of those it had.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = Arc::new(options);
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
    pub fn key(self, key: impl Into<String>) -> Self {
        self.with(|options| options.key(key))
    }

    /// See [`Options::ordering_key`].
    #[must_use]
    pub fn ordering_key(self, key: impl Into<String>) -> Self {
        self.with(|options| options.ordering_key(key))
    }

    /// See [`Options::child_key`].
    #[must_use]
    pub fn child_key(self, key: impl Into<String>) -> Self {
        self.with(|options| options.child_key(key))
    }

    /// See [`Options::delay`].
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|options| options.delay(delay))
    }

    /// See [`Options::deadline`].
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|options| options.deadline(deadline))
    }

    /// See [`Options::priority`].
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.with(|options| options.priority(priority))
    }

    fn with(mut self, change: impl FnOnce(Options) -> Options) -> Self {
        self.options = Arc::new(change(Options::clone(&self.options)));
        self
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, options) = (Arc::clone(&self.client), Arc::clone(&self.options));
        let slot = self.slot.clone();
        Incoming::new(request, client, options, slot, self.detached).answer()
    }
}
