//! The running attempt, as its handler sees it.

use crate::TaskId;
use crate::attach::Desk;
use crate::clock;
use crate::contracts::Method;
use crate::flags::Readings;
use crate::pb::v1::{AttemptExtra, FlowParent, Progress, TaskOptions};
use crate::session::FlowId;
use opentelemetry::Context;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tonic::Status;

/// The attempt that the current handler runs; get it with [`attempt`](crate::attempt). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attempt {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lease: Lease,
    extra: Option<Box<AttemptExtra>>,
    method: Arc<Method>,
    deadline: Instant,
    /// The client whose durable calls are children of this attempt.
    client: u64,
    desk: Option<Desk>,
    trace: Option<Context>,
    /// Child calls that the handler waits for. Changed under the desk's lock only.
    waiting: AtomicU32,
    stopped: AtomicBool,
    stop: Notify,
    flags: Readings,
    /// With how many readings of flags, and the options with them.
    child_options: Mutex<Option<(usize, Arc<TaskOptions>)>>,
}

/// A worker's right to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lease {
    pub(crate) task: u64,
    pub(crate) token: u64,
}

/// What an attempt is made of.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) lease: Lease,
    pub(crate) extra: Option<Box<AttemptExtra>>,
    pub(crate) method: Arc<Method>,
    pub(crate) deadline: Instant,
    pub(crate) client: u64,
    pub(crate) desk: Option<Desk>,
    pub(crate) trace: Option<Context>,
    pub(crate) flags: Readings,
}

impl Attempt {
    pub(crate) fn new(facts: Facts) -> Self {
        let Facts {
            lease,
            extra,
            method,
            deadline,
            client,
            desk,
            trace,
            flags,
        } = facts;
        let inner = Inner {
            lease,
            extra,
            method,
            deadline,
            client,
            desk,
            trace,
            waiting: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            stop: Notify::new(),
            flags,
            child_options: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.extra().attempt.max(1)
    }

    /// The task.
    #[must_use]
    pub fn task_id(&self) -> TaskId {
        TaskId(self.inner.lease.task)
    }

    /// The method, "/package.Service/Method".
    #[must_use]
    pub fn method(&self) -> &str {
        &self.inner.method.path
    }

    /// The same for every attempt of the task: the key it was submitted under, else its id.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        match self.extra().idempotency_key.as_str() {
            "" => self.task_id().to_string(),
            key => key.to_owned(),
        }
    }

    /// The ordering key; empty if it has none.
    #[must_use]
    pub fn ordering_key(&self) -> &str {
        &self.extra().ordering_key
    }

    /// Grows with every lease of the task. A store that keeps the largest one seen can refuse an old attempt's write.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.inner.lease.token
    }

    /// The flow that asked for this task, if one did.
    #[must_use]
    pub fn parent(&self) -> Option<TaskId> {
        Some(self.extra().parent)
            .filter(|parent| *parent != 0)
            .map(TaskId)
    }

    /// How many children earlier runs of this flow recorded; 0 in a first run.
    #[must_use]
    pub fn recorded_children(&self) -> u64 {
        self.extra().recorded_children
    }

    /// When it is stopped, on this process's monotonic clock.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// What is left until the deadline; zero when it has passed.
    #[must_use]
    pub fn time_remaining(&self) -> Duration {
        self.inner.deadline.saturating_duration_since(clock::now())
    }

    /// Tells how far the handler is: the share done, 0 to 1, and a line for people. Goes out with the next message;
    /// only the latest is kept.
    pub fn progress(&self, fraction: f64, message: impl Into<String>) {
        if let Some(desk) = &self.inner.desk {
            desk.progress(
                self.inner.lease,
                Progress {
                    fraction,
                    message: message.into(),
                },
            );
        }
    }

    /// Completes when the attempt is stopped: cancelled, expired, out of time, or its lease lost. The handler's own
    /// future is dropped then; this is for what it spawned.
    pub async fn stopped(&self) {
        let mut stop = std::pin::pin!(self.inner.stop.notified());
        stop.as_mut().enable();
        if !self.inner.stopped.load(Ordering::Acquire) {
            stop.await;
        }
    }

    /// Runs a future as part of this attempt, so that its durable calls are children and [`attempt`](crate::attempt)
    /// finds it. For what a handler spawns: `tokio::spawn` loses task-locals.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let attempt = plait::attempt().expect("inside a handler");
    /// let part = tokio::spawn(attempt.scope(async { /* durable calls here are children */ }));
    /// part.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        crate::flow::scope(self.clone(), future)
    }

    /// Whether the task was submitted under a key.
    pub(crate) fn has_key(&self) -> bool {
        !self.extra().idempotency_key.is_empty()
    }

    fn extra(&self) -> &AttemptExtra {
        static NONE: AttemptExtra = AttemptExtra {
            index: 0,
            attempt: 0,
            idempotency_key: String::new(),
            metadata: Vec::new(),
            recorded_children: 0,
            parent: 0,
            ordering_key: String::new(),
            create_time_ms: 0,
            flag_key: String::new(),
            flags: Vec::new(),
        };
        self.inner.extra.as_deref().unwrap_or(&NONE)
    }

    pub(crate) fn lease(&self) -> Lease {
        self.inner.lease
    }

    pub(crate) fn client(&self) -> u64 {
        self.inner.client
    }

    pub(crate) fn flow(&self) -> FlowId {
        (self.inner.lease.task, self.inner.lease.token)
    }

    pub(crate) fn trace(&self) -> Option<Context> {
        self.inner.trace.clone()
    }

    /// What makes a task a child of this attempt; shared by those with no key of their own.
    pub(crate) fn child_options(&self) -> Arc<TaskOptions> {
        let read = self.inner.flags.count();
        let kept = &self.inner.child_options;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((told, options)) = &*kept
            && *told == read
        {
            return Arc::clone(options);
        }
        let options = Arc::new(TaskOptions {
            parent: Some(self.flow_parent(String::new())),
            ..TaskOptions::default()
        });
        *kept = Some((read, Arc::clone(&options)));
        options
    }

    /// The feature flags that it sees.
    pub(crate) fn flags(&self) -> &Readings {
        &self.inner.flags
    }

    /// The key by which it reads feature flags where its handler says none.
    pub(crate) fn flag_key(&self) -> String {
        let extra = self.extra();
        let keys = [&extra.ordering_key, &extra.idempotency_key, &extra.flag_key];
        match keys.into_iter().find(|key| !key.is_empty()) {
            Some(key) => key.clone(),
            None => self.parent().unwrap_or_else(|| self.task_id()).to_string(),
        }
    }

    pub(crate) fn flow_parent(&self, child_key: String) -> FlowParent {
        let Lease { task, token } = self.inner.lease;
        FlowParent {
            task,
            token,
            child_key,
            flags: self.inner.flags.told(),
        }
    }

    /// Tells what was spawned that the attempt is over.
    pub(crate) fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        self.inner.stop.notify_waiters();
    }

    /// Whether its handler waits for a child.
    pub(crate) fn waits(&self) -> bool {
        self.inner.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn waiting(&self) -> &AtomicU32 {
        &self.inner.waiting
    }

    /// Waits for a child. Meanwhile the attempt's slot is free; and the wait is over early when the attempt is.
    pub(crate) async fn wait<T>(&self, child: impl Future<Output = T>) -> Result<T, Status> {
        let _slot = GivenBack::new(self);
        tokio::select! {
            biased;
            value = child => Ok(value),
            () = self.stopped() => Err(Status::cancelled("the attempt was stopped")),
        }
    }
}

/// The slot of an attempt that waits for a child; taken again, over the limit if need be, when the wait is over.
#[derive(Debug)]
struct GivenBack<'a>(&'a Attempt);

impl<'a> GivenBack<'a> {
    fn new(attempt: &'a Attempt) -> Self {
        if let Some(desk) = &attempt.inner.desk {
            desk.give_back_slot(attempt);
        }
        Self(attempt)
    }
}

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        if let Some(desk) = &self.0.inner.desk {
            desk.take_slot_again(self.0);
        }
    }
}
