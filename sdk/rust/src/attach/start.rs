//! Starts attempts: in line where the handler is done at once, else in a task of its own.
//!
//! A tokio task costs more than a handler that has nothing to wait for, so such a handler is polled where the frame was
//! read; if it has to wait after all, it moves into a task. One that computes for long would hold up the others and the
//! stream, so a method has to show first, in tasks, that its handlers do not.

use super::desk::{Desk, Received};
use super::{Attempt, Board, Facts, Plan, Served};
use crate::clock;
use crate::errors::{self, Ended, ErrorReason};
use crate::flags::Readings;
use crate::invoke::{Envelope, Invocation, Values};
use crate::pb::v1::Failure;
use crate::trace;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tonic::Status;

/// A first poll longer than this is worth a task: some twenty times what spawning costs.
const SLOW: Duration = Duration::from_micros(30);

/// How many first polls in a row must have been short before a method's handlers are polled in line.
const PROVEN: u32 = 16;

/// Attempts after which the other tasks of the thread get their turn; among them is the one that sends outcomes.
const TURN: u32 = 32;

/// Starts the attempts of one worker.
pub(crate) struct Starter {
    client: u64,
    slots: usize,
    desk: Desk,
    served: Vec<Served>,
    /// What was seen of each method.
    paces: Vec<Arc<Pace>>,
    values: Values,
    flags: Board,
    open: bool,
}

impl Starter {
    pub(crate) fn new(plan: &Plan, desk: Desk) -> Self {
        let (served, paces, values) = Default::default();
        Self {
            client: plan.client.id(),
            slots: plan.slots as usize,
            flags: plan.flags.clone(),
            desk,
            served,
            paces,
            values,
            open: true,
        }
    }

    /// The methods, in the order of the hello.
    pub(crate) fn serve(&mut self, served: Vec<Served>) {
        self.paces = served.iter().map(|_| Arc::default()).collect();
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
        self.desk.flush();
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
        let mut run = Run::new(
            received,
            served,
            (self.client, &self.desk, &self.flags),
            (left, &mut self.values),
        );
        let pace = &self.paces[index];
        if !pace.is_proven() {
            run.spawn(&self.desk, Some(Arc::clone(pace)));
            return now;
        }
        let poll = run.poll(&mut Context::from_waker(Waker::noop()));
        let after = clock::now();
        pace.took(after.saturating_duration_since(now));
        match poll {
            Poll::Ready(result) => self.desk.finish_at_once(run.attempt.lease(), result),
            // The task polls it at once, so the waker that stood for nobody is replaced before it is missed.
            Poll::Pending => run.spawn(&self.desk, None),
        }
        after
    }
}

/// How long the first polls of a method's handlers take.
#[derive(Debug, Default)]
struct Pace {
    short_in_a_row: AtomicU32,
}

impl Pace {
    fn is_proven(&self) -> bool {
        self.short_in_a_row.load(Ordering::Relaxed) >= PROVEN
    }

    fn took(&self, time: Duration) {
        if time > SLOW {
            self.short_in_a_row.store(0, Ordering::Relaxed);
        } else if !self.is_proven() {
            self.short_in_a_row.fetch_add(1, Ordering::Relaxed);
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
        (client, desk, flags): (u64, &Desk, &Board),
        (left, values): (Duration, &mut Values),
    ) -> Self {
        let Received {
            lease,
            payload,
            deadline,
            mut extra,
            ..
        } = received;
        let metadata = extra
            .as_mut()
            .map(|extra| std::mem::take(&mut extra.metadata));
        let metadata = metadata.unwrap_or_default();
        let recorded = extra.as_mut().map(|extra| std::mem::take(&mut extra.flags));
        let flags = Readings::new(flags.now(), recorded.unwrap_or_default());
        let span = trace::Attempt::start(trace::AttemptFacts {
            method: &served.method,
            task: lease.task,
            number: extra.as_ref().map_or(1, |extra| extra.attempt.max(1)),
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
            flags,
        });
        let envelope = Envelope {
            uri: &served.uri,
            attempt: &attempt,
            metadata: &metadata,
            left,
            payload,
        };
        let request = envelope.into_request(values);
        let invocation = Invocation::new(attempt.clone(), &*served.handler, request);
        Self {
            attempt,
            invocation,
            span,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let poll = Pin::new(&mut self.invocation).poll(cx);
        if let Poll::Ready(result) = &poll {
            self.end_span(result);
        }
        poll
    }

    fn end_span(&mut self, result: &Ended) {
        let Some(span) = self.span.take() else { return };
        match result {
            Ok(_) => span.end(0, ""),
            Err(failure) => span.end(failure.code, &failure.message),
        }
    }

    /// Goes on in a task, which tells `pace` how long the first poll took if that is still to be seen.
    fn spawn(mut self, desk: &Desk, mut pace: Option<Arc<Pace>>) {
        let attempt = self.attempt.clone();
        let deadline = attempt.deadline().into();
        let flow = attempt.clone();
        desk.spawn(attempt, async move {
            let handler = poll_fn(|cx| match pace.take() {
                None => self.poll(cx),
                Some(pace) => {
                    let start = clock::now();
                    let poll = self.poll(cx);
                    pace.took(clock::now().saturating_duration_since(start));
                    poll
                }
            });
            let mut handler = pin!(handler);
            let timed = match tokio::time::timeout_at(deadline, handler.as_mut()).await {
                // A flow that stands still is not failed: the broker unloads it, and says so.
                Err(_) if flow.waits() => Ok(handler.await),
                timed => timed,
            };
            timed.unwrap_or_else(|_| {
                let result = Err(timed_out());
                self.attempt.stop();
                self.end_span(&result);
                result
            })
        });
    }
}

fn timed_out() -> Box<Failure> {
    let message = "the attempt ran out of time";
    errors::failure(&errors::refusal(ErrorReason::AttemptTimedOut, message, []))
}
