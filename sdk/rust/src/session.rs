//! The one stream over which a process submits tasks and gets results.
//!
//! This file has the socket: it connects, reconnects for ever, and moves messages between the stream and the pure
//! state. Messages are built when the connection asks for one, so what gathers while a send is under way makes the
//! next frame, and nothing ever lingers.

use crate::clock;
use crate::codec::SharedCodec;
use crate::contracts::pause;
use crate::errors;
use crate::pb::v1::submit_stream_response::Message as Response;
use crate::pb::v1::{SubmitStreamRequest, SubmitStreamResponse};
use bytes::Bytes;
use http::uri::PathAndQuery;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Request, Status};

mod answers;
mod frames;
mod state;
mod ticket;

pub(crate) use frames::Submission;
pub(crate) use state::CLIENT;
use state::{Reaction, State};
pub(crate) use ticket::{FlowId, Outcome, Ticket};

/// What may wait to be accepted: so many tasks, or so many times `WEIGHT_BYTES`. Callers beyond it wait.
const WEIGHT_MAX: u32 = 16_384;

/// Bytes of payload that weigh as much as a task.
const WEIGHT_BYTES: usize = 4_096;

/// Largest message taken from the broker, in bytes: a frame of results and one payload at its limit.
pub(crate) const MESSAGE_MAX: usize = 64 << 20;

/// A handle of the session; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    room: Semaphore,
    closed: AtomicBool,
    /// Wakes the driver when `closed` changed.
    closing: Notify,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Counts the streams; an older one's sender is done.
    generation: u64,
    /// The connection that waits for a message to send.
    sender: Option<Waker>,
    /// Those who wait until everything is accepted.
    flushed: Vec<Waker>,
}

/// What the caller of a submission holds. Dropping it tells the session that nobody waits any more.
#[derive(Debug)]
pub(crate) struct Waiter {
    ticket: Arc<Ticket>,
    session: Session,
}

impl Session {
    /// Starts the session over `transport`, on the tokio runtime of the caller.
    pub(crate) fn start(transport: Channel) -> Self {
        let inner = Inner {
            state: State::new(new_session()),
            generation: 0,
            sender: None,
            flushed: Vec::new(),
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            room: Semaphore::new(WEIGHT_MAX as usize),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        });
        let session = Self { shared };
        drop(tokio::spawn(session.clone().drive(transport)));
        session
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What a payload weighs in the bound on memory.
    pub(crate) fn weight(payload: &Bytes) -> u32 {
        let weight = 1 + payload.len() / WEIGHT_BYTES;
        u32::try_from(weight).unwrap_or(u32::MAX).min(WEIGHT_MAX)
    }

    /// Queues a task if there is room for it and nobody waits for room; else gives it back.
    pub(crate) fn submit_now(&self, submission: Submission) -> Result<Waiter, Submission> {
        match self.shared.room.try_acquire_many(submission.weight) {
            Ok(room) => room.forget(),
            Err(_) => return Err(submission),
        }
        self.queue(submission)
    }

    /// Queues a task when there is room for it, in the order in which the futures are first polled.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Waiter, Status> {
        let room = self.shared.room.acquire_many(submission.weight);
        // Unconstrained: tokio's budget would send a busy caller to the end of the line, behind those after it.
        let room = tokio::task::coop::unconstrained(room).await;
        room.map_err(|_| closed())?.forget();
        self.queue(submission).map_err(|_| closed())
    }

    /// Queues a task that has room. A closed session gives it back.
    fn queue(&self, submission: Submission) -> Result<Waiter, Submission> {
        let waiter = Waiter {
            ticket: Arc::clone(&submission.ticket),
            session: self.clone(),
        };
        let mut inner = self.lock();
        if self.is_closed() {
            return Err(submission);
        }
        inner.state.submit(submission);
        wake(inner);
        Ok(waiter)
    }

    /// Asks for the result of a task that was accepted before.
    pub(crate) fn await_result(&self, task: u64, flow: Option<FlowId>) -> Waiter {
        let ticket = Arc::new(Ticket::accepted(task, flow));
        let mut inner = self.lock();
        if self.is_closed() {
            drop(inner);
            ticket.refuse(closed(), Bytes::new());
        } else {
            inner.state.await_result(task, Arc::clone(&ticket));
            wake(inner);
        }
        Waiter {
            ticket,
            session: self.clone(),
        }
    }

    /// Waits until everything that was submitted is accepted or refused.
    pub(crate) async fn flush(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.state.is_flushed() {
                return Poll::Ready(());
            }
            inner.flushed.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the session. Whoever still waits gets CANCELLED.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.room.close();
        self.shared.closing.notify_one();
        self.give_up(&closed());
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    fn give_up(&self, status: &Status) {
        let mut inner = self.lock();
        inner.generation += 1;
        let reaction = inner.state.fail(status, new_session());
        wake(inner);
        self.react(reaction);
    }

    /// Carries out what a message led to; not under the lock.
    fn react(&self, reaction: Reaction) {
        if reaction.freed > 0 {
            self.shared.room.add_permits(reaction.freed as usize);
        }
        for news in reaction.news {
            news.tell();
        }
    }

    async fn drive(self, transport: Channel) {
        let mut attempt = 1;
        while !self.is_closed() {
            let served = tokio::select! {
                served = self.serve(&transport, &mut attempt) => served,
                () = self.shared.closing.notified() => continue,
            };
            let Err(status) = served else { continue };
            if !errors::is_transient(&status) {
                tracing::warn!(%status, "the broker refused the session");
                self.give_up(&status);
            }
            tracing::debug!(%status, attempt, "the session's stream ended; connecting again");
            attempt += 1;
            tokio::select! {
                () = pause(attempt) => {}
                () = self.shared.closing.notified() => {}
            }
        }
    }

    /// One stream, to its end.
    async fn serve(&self, transport: &Channel, attempt: &mut u32) -> Result<(), Status> {
        let generation = {
            let mut inner = self.lock();
            inner.generation += 1;
            inner.state.reopen();
            let generation = inner.generation;
            wake(inner);
            generation
        };
        let outbound = Outbound {
            session: self.clone(),
            generation,
        };
        let mut client = tonic::client::Grpc::new(transport.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/plait.v1.TaskService/SubmitStream");
        let codec = SharedCodec::<SubmitStreamRequest, SubmitStreamResponse>::default();
        let mut inbound = client
            .streaming(Request::new(outbound), path, codec)
            .await?
            .into_inner();
        while let Some(message) = inbound.message().await? {
            let Some(message) = message.message else {
                continue;
            };
            if matches!(message, Response::Welcome(_)) {
                *attempt = 1;
            }
            self.receive(message);
        }
        Err(Status::unavailable("the broker ended the stream"))
    }

    fn receive(&self, message: Response) {
        let mut inner = self.lock();
        let reaction = inner.state.receive(message);
        let flushed = if inner.state.is_flushed() {
            std::mem::take(&mut inner.flushed)
        } else {
            Vec::new()
        };
        wake(inner);
        flushed.into_iter().for_each(Waker::wake);
        if let Some(pause) = reaction.pause {
            self.resume_after(pause);
        }
        self.react(reaction);
    }

    fn resume_after(&self, pause: Duration) {
        let session = self.clone();
        drop(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let mut inner = session.lock();
            inner.state.resume();
            wake(inner);
        }));
    }
}

/// Unlocks and tells the connection if there is something to send.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let sender = if inner.state.is_due() {
        inner.sender.take()
    } else {
        None
    };
    drop(inner);
    if let Some(sender) = sender {
        sender.wake();
    }
}

fn new_session() -> Bytes {
    Bytes::copy_from_slice(&clock::random_bytes())
}

fn closed() -> Status {
    Status::cancelled("the client was closed")
}

/// The messages of one stream. The connection takes one whenever it has room for it.
#[derive(Debug)]
struct Outbound {
    session: Session,
    generation: u64,
}

impl Stream for Outbound {
    type Item = Arc<SubmitStreamRequest>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.session.lock();
        if inner.generation != self.generation {
            return Poll::Ready(None);
        }
        let mut reaction = Reaction::default();
        let message = inner.state.next_message(&mut reaction);
        if message.is_none() {
            inner.sender = Some(cx.waker().clone());
        }
        drop(inner);
        self.session.react(reaction);
        message.map_or(Poll::Pending, |message| Poll::Ready(Some(message)))
    }
}

impl Waiter {
    /// Waits until the broker has the task; its number.
    pub(crate) async fn accepted(&self) -> Result<u64, Status> {
        self.ticket.wait_accepted().await
    }

    /// The task's number, if the broker has it.
    pub(crate) fn accepted_now(&self) -> Option<u64> {
        self.ticket.accepted_now()
    }

    /// The request, when it was refused.
    pub(crate) fn refused_request(&self) -> Bytes {
        self.ticket.refused_request()
    }

    /// What came of the task, if it is final.
    pub(crate) fn done_now(&self) -> Option<(Option<u64>, Outcome)> {
        self.ticket.done_now()
    }

    /// Waits until the task is final. The task's number is there unless it was refused.
    pub(crate) async fn done(&self) -> (Option<u64>, Outcome) {
        self.ticket.wait_done().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(task) = self.ticket.abandon() {
            let mut inner = self.session.lock();
            inner.state.forget(task);
            wake(inner);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::frames::tests::method;
}
