//! The durable channel: a transport for the user's unchanged generated client.

use crate::client::Client;
use crate::options::Options;
use crate::order::{Answering, Incoming};
use crate::placed::Placed;
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Where a call of `Plait::submit` and its like leaves its task as soon as it is on its way.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Whether the result is asked for with the submission.
    pub(crate) awaited: bool,
    placed: Mutex<Option<Placed>>,
}

impl Slot {
    pub(crate) fn new(awaited: bool) -> Self {
        Self {
            awaited,
            placed: Mutex::new(None),
        }
    }

    /// What the call left. FAILED_PRECONDITION when it left nothing.
    pub(crate) fn take(&self) -> Result<Placed, Status> {
        let placed = self.lock().take();
        placed
            .ok_or_else(|| Status::failed_precondition("the closure of a submission made no call"))
    }

    pub(crate) fn put(&self, placed: Placed) -> Result<(), Status> {
        let mut slot = self.lock();
        if slot.is_some() {
            return Err(Status::failed_precondition(
                "the closure of a submission made two calls",
            ));
        }
        *slot = Some(placed);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Placed>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A channel that leaves tasks in `slot` and answers at once.
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
