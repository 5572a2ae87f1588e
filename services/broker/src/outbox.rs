//! Where effects go once they are durable: streams by connection, callers by tag.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_broker_core::command::Command;
use plait_broker_core::effect::{Effect, Reply};
use plait_broker_core::ids::{ConnId, Millis, ReplyTag};
use tokio::sync::{Semaphore, oneshot};

use crate::outbound::{End, Outbound, Outgoing};
use crate::status;

/// Hears what a partition does, in the order in which it does it. It must not wait.
pub trait Witness: fmt::Debug + Send + Sync {
    /// A command is about to be applied, at a time of the partition's clock.
    fn applying(&self, now: Millis, command: &Command);

    /// What was decided at `time` is durable, and is carried out now, in order.
    fn releasing(&self, time: Millis, effects: &[Effect]);
}

/// Something to do when a query's answer may be told.
pub(crate) type Deferred = Box<dyn FnOnce() + Send>;

/// What may happen once a group is durable.
#[derive(Default)]
pub(crate) struct Release {
    /// When it was decided.
    pub(crate) time: Millis,
    pub(crate) effects: Vec<Effect>,
    pub(crate) answers: Vec<Deferred>,
    /// Bytes of the inbox that the group's commands held.
    pub(crate) cost: usize,
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Release({} effects, {} answers)",
            self.effects.len(),
            self.answers.len()
        )
    }
}

impl Release {
    pub(crate) fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.answers.is_empty() && self.cost == 0
    }
}

/// The open streams and the calls that wait.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Ordered, so that all end in the order in which they began.
    conns: Mutex<BTreeMap<ConnId, Arc<Outbound>>>,
    replies: Mutex<HashMap<ReplyTag, oneshot::Sender<Reply>>>,
    next: AtomicU64,
    room: Arc<Semaphore>,
    witness: Option<Arc<dyn Witness>>,
}

impl Outbox {
    pub(crate) fn new(room: Arc<Semaphore>, witness: Option<Arc<dyn Witness>>) -> Self {
        Self {
            conns: Mutex::default(),
            replies: Mutex::default(),
            next: AtomicU64::new(1),
            room,
            witness,
        }
    }

    fn conns(&self) -> MutexGuard<'_, BTreeMap<ConnId, Arc<Outbound>>> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replies(&self) -> MutexGuard<'_, HashMap<ReplyTag, oneshot::Sender<Reply>>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream: a number never used before, and its queue.
    pub(crate) fn open(&self, bytes_max: usize) -> (ConnId, Arc<Outbound>) {
        let conn = ConnId(self.next.fetch_add(1, Ordering::Relaxed));
        let outbound = Arc::new(Outbound::new(bytes_max));
        self.conns().insert(conn, Arc::clone(&outbound));
        (conn, outbound)
    }

    /// Forgets a stream.
    pub(crate) fn close(&self, conn: ConnId) {
        if let Some(outbound) = self.conns().remove(&conn) {
            outbound.end(End::Gone);
        }
    }

    /// Ends a stream after what is queued.
    pub(crate) fn end(&self, conn: ConnId, end: End) {
        if let Some(outbound) = self.conns().get(&conn) {
            outbound.end(end);
        }
    }

    /// A tag for a call, and where its answer comes.
    pub(crate) fn expect(&self) -> (ReplyTag, oneshot::Receiver<Reply>) {
        let tag = ReplyTag(self.next.fetch_add(1, Ordering::Relaxed));
        let (tx, rx) = oneshot::channel();
        self.replies().insert(tag, tx);
        (tag, rx)
    }

    /// Nobody waits for the tag any more.
    pub(crate) fn forget(&self, tag: ReplyTag) {
        self.replies().remove(&tag);
    }

    /// Tells that a command is about to be applied.
    pub(crate) fn applying(&self, now: Millis, command: &Command) {
        if let Some(witness) = &self.witness {
            witness.applying(now, command);
        }
    }

    /// Carries out what a durable group led to, in order.
    pub(crate) fn release(&self, release: Release) {
        if !release.effects.is_empty() {
            self.carry_out(release.time, release.effects);
        }
        for answer in release.answers {
            answer();
        }
        self.room.add_permits(release.cost);
    }

    fn carry_out(&self, time: Millis, effects: Vec<Effect>) {
        if let Some(witness) = &self.witness {
            witness.releasing(time, &effects);
        }
        let conns = self.conns();
        for effect in effects {
            let conn = match &effect {
                Effect::Reply { .. } => {
                    self.reply(effect);
                    continue;
                }
                // The owner sees to these.
                Effect::LogReleasable | Effect::ArchivesReleased { .. } => continue,
                Effect::SessionOpened { conn, .. }
                | Effect::SessionReplaced { conn }
                | Effect::SessionClosed { conn, .. }
                | Effect::Accepted { conn, .. }
                | Effect::Results { conn, .. }
                | Effect::ResultsArchived { conn, .. }
                | Effect::WorkerWelcome { conn, .. }
                | Effect::FlagChanged { conn, .. }
                | Effect::WorkerClosed { conn, .. }
                | Effect::Attempts { conn, .. }
                | Effect::Settled { conn, .. }
                | Effect::Stop { conn, .. }
                | Effect::TaskChanged { conn, .. }
                | Effect::WatchArchived { conn, .. }
                | Effect::WatchFailed { conn, .. } => *conn,
            };
            // A stream that is gone needs nothing.
            if let Some(outbound) = conns.get(&conn) {
                deliver(outbound, effect);
            }
        }
    }

    fn reply(&self, effect: Effect) {
        let Effect::Reply { tag, reply } = effect else {
            return;
        };
        if let Some(waiting) = self.replies().remove(&tag) {
            // The caller may have given up; the deed is done all the same.
            let _ = waiting.send(reply);
        }
    }

    /// Ends every stream and every call: the partition is down.
    pub(crate) fn end_all(&self, end: &End) {
        for outbound in std::mem::take(&mut *self.conns()).into_values() {
            outbound.end(end.clone());
        }
        self.replies().clear();
        self.room.close();
    }
}

fn deliver(outbound: &Outbound, effect: Effect) {
    match effect {
        Effect::SessionReplaced { .. } => {
            outbound.end(End::Status(Box::new(status::session_replaced())));
        }
        Effect::WorkerClosed { error, .. }
        | Effect::SessionClosed { error, .. }
        | Effect::WatchFailed { error, .. } => {
            outbound.end(End::Status(Box::new(status::refused(&error).into())));
        }
        effect => {
            // A slow reader is cut here; its own task sees that and cleans up.
            let _ = outbound.push(Outgoing::Effect(effect));
        }
    }
}
