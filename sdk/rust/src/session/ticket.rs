//! What one caller waits for: that its task is accepted, and its result.
//!
//! One allocation a submission, shared by the caller and the session. The session moves it forward; the caller waits,
//! and says so when it no longer does.

use bytes::Bytes;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tonic::Status;

/// A running flow, as the broker knows it: parent task and fencing token.
pub(crate) type FlowId = (u64, u64);

/// A task's final outcome: the response's bytes, or the error.
pub(crate) type Outcome = Result<Bytes, Status>;

#[derive(Debug)]
enum State {
    /// On its way.
    Sent,
    /// The broker has it, under this number.
    Accepted(u64),
    /// Refused, or the client was closed. The request comes back, so that its caller need not keep one.
    Refused(Status, Bytes),
    /// Final.
    Done(u64, Outcome),
    /// The outcome was taken.
    Taken(u64),
    /// The caller is gone.
    Abandoned,
}

impl State {
    /// The outcome, if there is one; once.
    fn take(&mut self) -> Option<(Option<u64>, Outcome)> {
        match self {
            Self::Sent | Self::Accepted(_) => None,
            Self::Refused(status, _) => Some((None, Err(status.clone()))),
            Self::Done(task, _) => {
                let task = *task;
                match std::mem::replace(self, Self::Taken(task)) {
                    Self::Done(_, outcome) => Some((Some(task), outcome)),
                    _ => None,
                }
            }
            Self::Taken(task) => Some((Some(*task), Err(gone()))),
            Self::Abandoned => Some((None, Err(gone()))),
        }
    }
}

#[derive(Debug)]
struct Inner {
    state: State,
    waker: Option<Waker>,
    /// Whether the waker waits for the result, and not for the acceptance.
    for_result: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Whether the result is wanted, and not only the acceptance.
    pub(crate) awaited: bool,
    /// The flow that asks, if one does.
    pub(crate) flow: Option<FlowId>,
    inner: Mutex<Inner>,
}

impl Ticket {
    /// For a task that is about to be submitted.
    pub(crate) fn new(awaited: bool, flow: Option<FlowId>) -> Self {
        Self::with(State::Sent, awaited, flow)
    }

    /// For the result of a task that was accepted before.
    pub(crate) fn accepted(task: u64, flow: Option<FlowId>) -> Self {
        Self::with(State::Accepted(task), true, flow)
    }

    fn with(state: State, awaited: bool, flow: Option<FlowId>) -> Self {
        Self {
            awaited,
            flow,
            inner: Mutex::new(Inner {
                state,
                waker: None,
                for_result: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves to `next` and wakes the caller. Nothing of the caller may run under the session's lock, because dropping
    /// it takes that lock: the session calls this outside.
    fn advance(&self, next: State) {
        let mut inner = self.lock();
        if matches!(inner.state, State::Abandoned) {
            return;
        }
        inner.state = next;
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The broker has the task. Does not wake a caller that waits for the result only.
    pub(crate) fn accept(&self, task: u64) {
        let mut inner = self.lock();
        if !matches!(inner.state, State::Sent) {
            return;
        }
        inner.state = State::Accepted(task);
        let waker = if inner.for_result {
            None
        } else {
            inner.waker.take()
        };
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The broker refused the task, or nobody will answer any more.
    pub(crate) fn refuse(&self, status: Status, request: Bytes) {
        self.advance(State::Refused(status, request));
    }

    /// The request of a refused task.
    pub(crate) fn refused_request(&self) -> Bytes {
        match &mut self.lock().state {
            State::Refused(_, request) => std::mem::take(request),
            _ => Bytes::new(),
        }
    }

    /// The task is final.
    pub(crate) fn finish(&self, task: u64, outcome: Outcome) {
        self.advance(State::Done(task, outcome));
    }

    /// Whether the caller is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(self.lock().state, State::Abandoned)
    }

    /// The caller no longer waits. Returns the task whose result is now to be forgotten, if the session awaits one.
    pub(crate) fn abandon(&self) -> Option<u64> {
        let mut inner = self.lock();
        inner.waker = None;
        match std::mem::replace(&mut inner.state, State::Abandoned) {
            State::Accepted(task) if self.awaited => Some(task),
            _ => None,
        }
    }

    /// Waits until the broker has the task.
    pub(crate) async fn wait_accepted(&self) -> Result<u64, Status> {
        poll_fn(|cx| {
            self.poll(cx, false, |state| match state {
                State::Sent => None,
                State::Accepted(task) | State::Done(task, _) | State::Taken(task) => {
                    Some(Ok(*task))
                }
                State::Refused(status, _) => Some(Err(status.clone())),
                State::Abandoned => Some(Err(gone())),
            })
        })
        .await
    }

    /// Waits until the task is final; the outcome can be taken once. The task's number is there unless it was refused.
    pub(crate) async fn wait_done(&self) -> (Option<u64>, Outcome) {
        poll_fn(|cx| self.poll(cx, true, State::take)).await
    }

    /// The task's number, if the broker has it.
    pub(crate) fn accepted_now(&self) -> Option<u64> {
        match &self.lock().state {
            State::Accepted(task) | State::Done(task, _) | State::Taken(task) => Some(*task),
            State::Sent | State::Refused(..) | State::Abandoned => None,
        }
    }

    /// What `wait_done` would answer at once.
    pub(crate) fn done_now(&self) -> Option<(Option<u64>, Outcome)> {
        self.lock().state.take()
    }

    fn poll<T>(
        &self,
        cx: &Context<'_>,
        for_result: bool,
        ready: impl FnOnce(&mut State) -> Option<T>,
    ) -> Poll<T> {
        let mut inner = self.lock();
        if let Some(value) = ready(&mut inner.state) {
            return Poll::Ready(value);
        }
        inner.for_result = for_result;
        match &inner.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => inner.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

fn gone() -> Status {
    Status::internal("the outcome of this submission was taken already")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio_test::{assert_pending, assert_ready, task};

    #[test]
    fn a_caller_is_woken_for_what_it_waits_for() {
        let ticket = Ticket::new(true, None);
        let mut done = task::spawn(ticket.wait_done());
        assert_pending!(done.poll());
        ticket.accept(7);
        assert!(!done.is_woken());
        assert_pending!(done.poll());
        ticket.finish(7, Ok(Bytes::from_static(b"x")));
        assert!(done.is_woken());
        let (task, outcome) = assert_ready!(done.poll());
        assert_eq!((task, outcome.expect("ok").as_ref()), (Some(7), &b"x"[..]));
    }

    #[test]
    fn acceptance_is_seen_before_and_after_the_result() {
        let ticket = Ticket::new(false, None);
        {
            let mut accepted = task::spawn(ticket.wait_accepted());
            assert_pending!(accepted.poll());
            ticket.accept(3);
            assert!(accepted.is_woken());
            assert_eq!(assert_ready!(accepted.poll()).expect("accepted"), 3);
        }
        ticket.finish(3, Err(Status::aborted("no")));
        assert_eq!(
            assert_ready!(task::spawn(ticket.wait_accepted()).poll()).expect("known"),
            3
        );
    }

    #[test]
    fn only_an_awaited_task_is_to_be_forgotten() {
        for (awaited, want) in [(true, Some(9)), (false, None)] {
            let ticket = Ticket::new(awaited, None);
            ticket.accept(9);
            assert_eq!(ticket.abandon(), want);
            assert!(ticket.is_abandoned());
        }
        let sent = Ticket::new(true, None);
        assert_eq!(sent.abandon(), None);
        sent.accept(1);
        assert!(sent.is_abandoned(), "a caller that is gone stays gone");
    }

    #[test]
    fn a_refusal_reaches_both_waits() {
        let ticket = Ticket::new(true, None);
        ticket.refuse(Status::not_found("no"), Bytes::from_static(b"x"));
        let accepted = assert_ready!(task::spawn(ticket.wait_accepted()).poll());
        assert_eq!(accepted.expect_err("refused").code(), tonic::Code::NotFound);
        let mut done = pin!(ticket.wait_done());
        let waker = Waker::noop();
        let Poll::Ready((None, Err(status))) = done.as_mut().poll(&mut Context::from_waker(waker))
        else {
            panic!("not refused");
        };
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert_eq!(ticket.refused_request(), "x");
    }
}
