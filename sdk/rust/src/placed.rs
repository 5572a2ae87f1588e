//! A task that was handed to the session: on its way, and waited for.

use crate::contracts;
use crate::order::Order;
use crate::session::{Outcome, Waiter};
use crate::task::{Task, TaskId};
use bytes::Bytes;
use std::sync::Arc;
use tonic::Status;

/// What a call came to: the task, unless it was refused, and the response's bytes or the error.
pub(crate) type Answer = (Option<TaskId>, Result<Bytes, Status>);

/// What is there already, or else the task again.
#[derive(Debug)]
pub(crate) enum Now<T> {
    There(T),
    NotYet(Placed),
}

impl<T> Now<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Now<U> {
        match self {
            Self::There(value) => Now::There(change(value)),
            Self::NotYet(placed) => Now::NotYet(placed),
        }
    }
}

/// A task on its way. Dropping it tells the session that nobody waits any more; the task goes on.
#[derive(Debug)]
pub(crate) struct Placed {
    order: Order,
    waiter: Waiter,
}

impl Placed {
    pub(crate) fn new(order: Order, waiter: Waiter) -> Self {
        Self { order, waiter }
    }

    /// Waits until the broker has the task, no longer than the call's deadline.
    pub(crate) async fn accepted<R>(self) -> Result<Task<R>, Status> {
        let Some(deadline) = self.order.deadline() else {
            return self.acceptance().await;
        };
        let accepted = tokio::time::timeout_at(deadline.into(), self.acceptance()).await;
        accepted.unwrap_or_else(|_| Err(Status::deadline_exceeded("the call's deadline passed")))
    }

    async fn acceptance<R>(mut self) -> Result<Task<R>, Status> {
        let mut accepted = self.waiter.accepted().await;
        if accepted.as_ref().is_err_and(contracts::is_unknown) {
            accepted = match self.place_again().await {
                Ok(()) => self.waiter.accepted().await,
                Err(status) => Err(status),
            };
        }
        match accepted {
            Ok(task) => Ok(self.handle(task)),
            Err(status) => {
                self.order.end(None, Some(&status));
                Err(status)
            }
        }
    }

    /// The handle, if the broker has the task already.
    pub(crate) fn accepted_now<R>(self) -> Now<Task<R>> {
        match self.waiter.accepted_now() {
            Some(task) => Now::There(self.handle(task)),
            None => Now::NotYet(self),
        }
    }

    fn handle<R>(self, task: u64) -> Task<R> {
        let Self { mut order, waiter } = self;
        order.end(Some(task), None);
        let in_flow = order.attempt().is_some();
        Task::new(
            Arc::clone(order.client()),
            TaskId(task),
            in_flow.then_some(waiter),
        )
    }

    /// The answer, if it is there already.
    pub(crate) fn done_now(mut self) -> Now<Answer> {
        match self.waiter.done_now() {
            Some(done) if !is_unknown(&done) => Now::There(self.end(done)),
            _ => Now::NotYet(self),
        }
    }

    /// Waits until the task is final. Inside a flow the attempt's slot is free meanwhile.
    pub(crate) async fn done(mut self) -> Answer {
        let mut done = self.outcome().await;
        if is_unknown(&done) {
            done = match self.place_again().await {
                Ok(()) => self.outcome().await,
                Err(status) => (None, Err(status)),
            };
        }
        self.end(done)
    }

    async fn outcome(&self) -> (Option<u64>, Outcome) {
        match self.order.attempt() {
            None => self.waiter.done().await,
            Some(attempt) => {
                let waited = attempt.wait(self.waiter.done()).await;
                waited.unwrap_or_else(|status| (None, Err(status)))
            }
        }
    }

    async fn place_again(&mut self) -> Result<(), Status> {
        let request = self.waiter.refused_request();
        // Boxed: rarely needed, and every call's future would have to hold it.
        self.waiter = Box::pin(self.order.place_again(request)).await?;
        Ok(())
    }

    fn end(&mut self, (task, outcome): (Option<u64>, Outcome)) -> Answer {
        self.order.end(task, outcome.as_ref().err());
        (task.map(TaskId), outcome)
    }
}

fn is_unknown((task, outcome): &(Option<u64>, Outcome)) -> bool {
    task.is_none() && outcome.as_ref().is_err_and(contracts::is_unknown)
}
