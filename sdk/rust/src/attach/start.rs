//! Starts attempts: in line where the handler is done at once, else in a task of its own.
//!
//! A tokio task costs more than a handler that has nothing to wait for, so each handler is first polled where the frame
//! was read. One that has to wait moves into a task. One that computes for long would hold up the others and the
//! stream, so a method whose handler was seen to do that is spawned unpolled for a while.

use super::desk::{Desk, Received};
use super::{Attempt, Facts, Served};
use crate::clock;
use crate::errors::{self, ErrorReason};
use crate::invoke::{Envelope, Invocation, TimeoutHeader};
use crate::pb::v1::Failure;
use crate::trace;
use bytes::Bytes;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tonic::Status;

/// A first poll longer than this is worth a task: some twenty times what spawning costs.
const SLOW: Duration = Duration::from_micros(30);

/// How many attempts of a slow method are spawned before it is tried in line again.
const SPAWNED_WHEN_SLOW: u32 = 64;

/// A method is slow when so many attempts in a row were: one alone may only have lost the processor.
const SLOW_IN_A_ROW: u32 = 2;

/// Attempts after which the other tasks of the thread get their turn; among them is the one that sends outcomes.
const TURN: u32 = 32;

/// Starts the attempts of one worker.
pub(crate) struct Starter {
    client: u64,
    slots: usize,
    desk: Desk,
    served: Vec<Served>,
    /// What was seen of each method.
    paces: Vec<Pace>,
    timeouts: TimeoutHeader,
    open: bool,
}

impl Starter {
    pub(crate) fn new(client: u64, slots: usize, desk: Desk) -> Self {
        let (served, paces, timeouts) = Default::default();
        Self {
            client,
            slots,
            desk,
            served,
            paces,
            timeouts,
            open: true,
        }
    }

    /// The methods, in the order of the hello.
    pub(crate) fn serve(&mut self, served: Vec<Served>) {
        self.paces = vec![Pace::default(); served.len()];
        self.served = served;
    }

    /// Starts nothing any more.
    pub(crate) fn close(&mut self) {
        self.open = false;
    }

    /// Starts what waits while slots are free. Whether all was started, so that no slot is to be waited for.
    pub(crate) async fn start_waiting(&mut self) -> bool {
        let mut started = 0;
        let mut now = clock::now();
        while self.open {
            let Some(received) = self.desk.next(self.slots) else {
                break;
            };
            now = self.start(received, now);
            started += 1;
            if started % TURN == 0 {
                tokio::task::yield_now().await;
                now = clock::now();
            }
        }
        self.desk.is_idle()
    }

    /// Starts one attempt at `now`; returns the time after it.
    fn start(&mut self, received: Received, now: Instant) -> Instant {
        let left = received.deadline.saturating_duration_since(now);
        if left.is_zero() {
            self.desk.finish_at_once(received.lease, Err(timed_out()));
            return now;
        }
        let index = received.method as usize;
        let Some(served) = self.served.get(index) else {
            let status = Status::unimplemented("the worker does not serve this method");
            self.desk
                .finish_at_once(received.lease, Err(errors::failure(&status)));
            return now;
        };
        let timeout = self.timeouts.of(left);
        let mut run = Run::new(received, served, (self.client, &self.desk), timeout);
        let pace = &mut self.paces[index];
        if pace.is_slow() {
            run.spawn(&self.desk);
            return now;
        }
        let poll = run.poll(&mut Context::from_waker(Waker::noop()));
        let after = clock::now();
        pace.took(after.saturating_duration_since(now));
        match poll {
            Poll::Ready(result) => self.desk.finish_at_once(run.attempt.lease(), result),
            // The task polls it at once, so the waker that stood for nobody is replaced before it is missed.
            Poll::Pending => run.spawn(&self.desk),
        }
        after
    }
}

/// How long the first polls of a method's handlers take.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    slow_in_a_row: u32,
    /// How many attempts are still to be spawned unpolled.
    to_spawn: u32,
}

impl Pace {
    /// Whether the next attempt is to be spawned unpolled.
    fn is_slow(&mut self) -> bool {
        let slow = self.to_spawn > 0;
        self.to_spawn -= u32::from(slow);
        slow
    }

    fn took(&mut self, time: Duration) {
        if time <= SLOW {
            self.slow_in_a_row = 0;
            return;
        }
        self.slow_in_a_row += 1;
        if self.slow_in_a_row >= SLOW_IN_A_ROW {
            self.to_spawn = SPAWNED_WHEN_SLOW;
        }
    }
}

/// A handler at work, with all that belongs to it.
struct Run {
    attempt: Attempt,
    invocation: Invocation,
    span: Option<trace::Attempt>,
}

impl Run {
    fn new(
        received: Received,
        served: &Served,
        (client, desk): (u64, &Desk),
        timeout: http::HeaderValue,
    ) -> Self {
        let Received {
            lease,
            payload,
            deadline,
            mut extra,
            ..
        } = received;
        let metadata = std::mem::take(&mut extra.metadata);
        let span = trace::Attempt::start(trace::AttemptFacts {
            method: &served.method,
            task: lease.task,
            number: extra.attempt.max(1),
            metadata: &metadata,
        });
        let attempt = Attempt::new(Facts {
            lease,
            extra,
            method: served.method.clone(),
            deadline,
            client,
            desk: Some(desk.clone()),
            trace: span.as_ref().map(trace::Attempt::context),
        });
        let envelope = Envelope {
            uri: &served.uri,
            attempt: &attempt,
            metadata: &metadata,
            timeout,
            payload,
        };
        let request = envelope.into_request();
        let invocation = Invocation::new(attempt.clone(), &*served.handler, request);
        Self {
            attempt,
            invocation,
            span,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let poll = Pin::new(&mut self.invocation).poll(cx);
        if let Poll::Ready(result) = &poll {
            self.end_span(result);
        }
        poll
    }

    fn end_span(&mut self, result: &Result<Bytes, Failure>) {
        let Some(span) = self.span.take() else { return };
        match result {
            Ok(_) => span.end(0, ""),
            Err(failure) => span.end(failure.code, &failure.message),
        }
    }

    fn spawn(mut self, desk: &Desk) {
        let attempt = self.attempt.clone();
        let deadline = attempt.deadline().into();
        desk.spawn(attempt, async move {
            let handler = poll_fn(|cx| self.poll(cx));
            let timed = tokio::time::timeout_at(deadline, handler).await;
            timed.unwrap_or_else(|_| {
                let result = Err(timed_out());
                self.attempt.stop();
                self.end_span(&result);
                result
            })
        });
    }
}

fn timed_out() -> Failure {
    let message = "the attempt ran out of time";
    errors::failure(&errors::refusal(ErrorReason::AttemptTimedOut, message, []))
}
