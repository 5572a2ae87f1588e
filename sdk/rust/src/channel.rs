//! The durable channel: a transport for the user's unchanged generated client.

use crate::client::Client;
use crate::options::Options;
use crate::order::{self, Incoming};
use crate::session::Waiter;
use crate::task::TaskId;
use http::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
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

    pub(crate) fn put(&self, submitted: Submitted) -> Result<(), Status> {
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
            options: Arc::default(),
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
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, options) = (Arc::clone(&self.client), Arc::clone(&self.options));
        let incoming = Incoming::new(request, client, options, self.detached);
        order::answer(incoming, self.slot.clone())
    }
}
