//! What a worker holds: attempts that wait, attempts that run, and what the broker is to be told.
//!
//! One lock for all of it, held for moments. Futures and wakers of handlers are never run or dropped under it, because
//! they may come back for it.

use super::HEARTBEAT;
use super::outbox::{Outbox, Outcome};
use crate::attempt::{Attempt, Lease};
use crate::errors::Ended;
use crate::number_map::NumberMap;
use crate::pb::v1::{AttachRequest, AttemptExtra, Progress, WorkerHeartbeat};
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Sleep;
use tokio_stream::Stream;

/// An attempt as it was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) lease: Lease,
    /// Index into the hello's methods.
    pub(crate) method: u32,
    pub(crate) payload: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) extra: Option<Box<AttemptExtra>>,
}

/// An attempt in a handler that did not finish at once.
#[derive(Debug)]
struct Running {
    attempt: Attempt,
    abort: AbortHandle,
}

/// A handle to what a worker holds; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// A slot came free, or the last attempt ended.
    freed: Notify,
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    waiting: VecDeque<Received>,
    running: NumberMap<Lease, Running>,
    /// Running attempts that hold a slot; those that wait for a child do not.
    busy: usize,
    /// Something is sent at least so often.
    heartbeat: Duration,
    /// Counts the streams; an older one's sender is done.
    generation: u64,
    /// The connection that waits for a message to send.
    sender: Option<Waker>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            outbox: Outbox::new(),
            waiting: VecDeque::new(),
            running: NumberMap::default(),
            busy: 0,
            heartbeat: HEARTBEAT,
            generation: 0,
            sender: None,
        };
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                freed: Notify::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the outbox and tells the connection that there is something to send.
    pub(crate) fn tell<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut inner = self.lock();
        let value = change(&mut inner.outbox);
        wake_if_due(inner);
        value
    }

    /// Begins a new stream; what the worker holds goes into its hello.
    pub(crate) fn reopen(
        &self,
        hello: impl FnOnce(Vec<Lease>) -> crate::pb::v1::WorkerHello,
    ) -> Outbound {
        let mut inner = self.lock();
        inner.generation += 1;
        let generation = inner.generation;
        let waiting = inner.waiting.iter().map(|received| received.lease);
        let running = inner.running.keys().copied();
        let held = waiting.chain(running).chain(inner.outbox.held()).collect();
        inner.outbox.reopen(hello(held));
        wake(inner);
        Outbound::new(self.clone(), generation)
    }

    /// A frame came in: it is accepted, and its attempts wait for slots.
    pub(crate) fn receive(&self, sequence: u64, attempts: impl Iterator<Item = Received>) {
        let mut inner = self.lock();
        inner.waiting.extend(attempts);
        inner.outbox.accept(sequence);
        // Not told yet: handlers that are done at once have outcomes to send along.
    }

    /// Sends what has waited for more to go along.
    pub(crate) fn flush(&self) {
        wake_if_due(self.lock());
    }

    /// The next attempt to start, if a slot is free.
    pub(crate) fn next(&self, slots: usize) -> Option<Received> {
        let mut inner = self.lock();
        if inner.busy >= slots {
            None
        } else {
            inner.waiting.pop_front()
        }
    }

    /// An attempt that did not finish at once goes on in a task of its own.
    pub(crate) fn spawn(
        &self,
        attempt: Attempt,
        run: impl Future<Output = Ended> + Send + 'static,
    ) {
        let lease = attempt.lease();
        let desk = self.clone();
        let task = async move {
            let result = run.await;
            desk.finish(lease, result);
        };
        // Under the lock, so that the task cannot end before it is known.
        let mut inner = self.lock();
        let abort = tokio::spawn(task).abort_handle();
        inner.busy += usize::from(holds_slot(&attempt));
        inner.running.insert(lease, Running { attempt, abort });
    }

    /// An attempt that was started in a task of its own ended. Nothing is told of one that was stopped.
    fn finish(&self, lease: Lease, result: Ended) {
        let mut inner = self.lock();
        let Some(ended) = inner.remove(lease) else {
            return;
        };
        inner.outbox.push(Outcome { lease, result });
        wake_if_due(inner);
        drop(ended);
        self.shared.freed.notify_one();
    }

    /// An attempt ended without having been spawned.
    pub(crate) fn finish_at_once(&self, lease: Lease, result: Ended) {
        let mut inner = self.lock();
        inner.outbox.push(Outcome { lease, result });
        if inner.outbox.is_outcome_due() {
            wake(inner);
        }
    }

    /// Stops attempts, wherever they are. Their outcome is no longer wanted.
    pub(crate) fn stop(&self, leases: &HashSet<Lease>) {
        let mut inner = self.lock();
        let stopped: Vec<_> = leases
            .iter()
            .filter_map(|lease| inner.remove(*lease))
            .collect();
        let waiting = std::mem::take(&mut inner.waiting);
        let (unwanted, kept): (VecDeque<_>, _) = waiting
            .into_iter()
            .partition(|received| leases.contains(&received.lease));
        inner.waiting = kept;
        leases
            .iter()
            .for_each(|lease| inner.outbox.forget_progress(*lease));
        drop(inner);
        drop(unwanted);
        for Running { attempt, abort } in stopped {
            attempt.stop();
            abort.abort();
        }
        self.shared.freed.notify_one();
    }

    /// Ends the stream, so that the broker knows at once, and stops everything that runs.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.generation += 1;
        let leases = inner.running.keys().copied().collect();
        wake(inner);
        self.stop(&leases);
    }

    /// Gives the attempts that wait back to the broker.
    pub(crate) fn hand_back(&self) {
        let mut inner = self.lock();
        let waiting = std::mem::take(&mut inner.waiting);
        inner
            .outbox
            .hand_back(waiting.iter().map(|received| received.lease));
        wake(inner);
    }

    /// The broker is ready, and wants a sign of life so often; these leases are no longer the worker's.
    pub(crate) fn welcome(&self, heartbeat: Duration, lost: &HashSet<Lease>) {
        self.stop(lost);
        let mut inner = self.lock();
        inner.heartbeat = heartbeat;
        inner.outbox.welcome(lost);
        wake(inner);
    }

    /// Whether nothing waits for a slot.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Whether nothing runs and the broker has all outcomes.
    pub(crate) fn is_drained(&self) -> bool {
        let inner = self.lock();
        inner.running.is_empty() && inner.waiting.is_empty() && inner.outbox.is_settled()
    }

    /// Completes when a slot came free since the last call.
    pub(crate) async fn freed(&self) {
        self.shared.freed.notified().await;
    }

    pub(crate) fn progress(&self, lease: Lease, progress: Progress) {
        let mut inner = self.lock();
        inner.outbox.progress(lease, progress);
        wake(inner);
    }

    /// The attempt waits for a child: another may start in its place.
    pub(crate) fn give_back_slot(&self, attempt: &Attempt) {
        let mut inner = self.lock();
        let first = attempt.waiting().fetch_add(1, Ordering::Relaxed) == 0;
        if first && inner.running.contains_key(&attempt.lease()) {
            inner.busy -= 1;
            drop(inner);
            self.shared.freed.notify_one();
        }
    }

    /// The attempt goes on. It may exceed the slots for a moment.
    pub(crate) fn take_slot_again(&self, attempt: &Attempt) {
        let mut inner = self.lock();
        let last = attempt.waiting().fetch_sub(1, Ordering::Relaxed) == 1;
        if last && inner.running.contains_key(&attempt.lease()) {
            inner.busy += 1;
        }
    }
}

impl Inner {
    fn remove(&mut self, lease: Lease) -> Option<Running> {
        let running = self.running.remove(&lease)?;
        self.busy -= usize::from(holds_slot(&running.attempt));
        Some(running)
    }
}

fn holds_slot(attempt: &Attempt) -> bool {
    attempt.waiting().load(Ordering::Relaxed) == 0
}

/// Unlocks and tells the connection if there is something to send.
fn wake_if_due(inner: MutexGuard<'_, Inner>) {
    if inner.outbox.is_due() {
        wake(inner);
    }
}

/// Unlocks and has the connection look.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let sender = inner.sender.take();
    drop(inner);
    if let Some(sender) = sender {
        sender.wake();
    }
}

/// The messages of one stream. The connection takes one whenever it has room for it, and so heartbeats go out whatever
/// the handlers do to the threads that they run on.
#[derive(Debug)]
pub(crate) struct Outbound {
    desk: Desk,
    generation: u64,
    tick: Pin<Box<Sleep>>,
}

impl Outbound {
    fn new(desk: Desk, generation: u64) -> Self {
        Self {
            desk,
            generation,
            tick: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Twice as often as promised, so that a message that just missed its tick is not late.
    fn poll_tick(&mut self, inner: &mut Inner, cx: &mut Context<'_>) {
        while self.tick.as_mut().poll(cx).is_ready() {
            self.tick
                .as_mut()
                .reset(tokio::time::Instant::now() + inner.heartbeat / 2);
            let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
            let (running, waiting) = (count(inner.running.len()), count(inner.waiting.len()));
            inner.outbox.beat(WorkerHeartbeat { running, waiting });
        }
    }
}

impl Stream for Outbound {
    type Item = Arc<AttachRequest>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let desk = self.desk.clone();
        let mut inner = desk.lock();
        if inner.generation != self.generation {
            return Poll::Ready(None);
        }
        let mut message = inner.outbox.next_message();
        if message.is_none() {
            self.poll_tick(&mut inner, cx);
            message = inner.outbox.next_message();
        }
        if message.is_none() {
            inner.sender = Some(cx.waker().clone());
        }
        message.map_or(Poll::Pending, |message| Poll::Ready(Some(message)))
    }
}

#[cfg(test)]
mod tests;
