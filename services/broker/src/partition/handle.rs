//! The way into a partition, cheap to clone.

use std::sync::Arc;
use std::time::Duration;

use plait_broker_core::Partition;
use plait_broker_core::command::Command;
use plait_broker_core::effect::{Error, Reply};
use plait_broker_core::ids::{ArchiveId, ConnId, Millis, ReplyTag, TaskId};
use plait_broker_log::{Offset, PayloadResult, Payloads, SegmentInfo};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::archived::OpenFiles;
use super::test_kit::{Advance, Fault, Order, Stuck};
use crate::metrics::SyncTimes;
use crate::outbound::Outbound;
use crate::outbox::{Deferred, Outbox};
use crate::status::{self, Refused};
use crate::threads::Threads;

/// How long a call waits for room in the inbox. A stream waits for as long as it takes, because not reading it
/// is what slows its sender down.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// Memory of a command beside its payloads, bytes.
const COMMAND_COST: usize = 128;

/// A question to the state machine, asked on its own task; what it returns is done when it may be told.
pub(super) type Query = Box<dyn FnOnce(&mut Partition, Millis) -> Deferred + Send>;

/// What the owner is sent.
pub(super) enum Input {
    /// A command, and the room it holds.
    Command(Command, usize),
    /// A question.
    Query(Query),
    /// A snapshot is on the disk, or not.
    SnapshotDone {
        /// Whether it is, and how long it is.
        written: Option<u64>,
    },
    /// An archive file is on the disk, or not.
    Archived {
        /// Which.
        archive: ArchiveId,
        /// Whether it is.
        written: bool,
    },
    /// What the log holds, asked for to let go of segments.
    Segments {
        /// Frames below it are needed by no restart.
        keep_from: u64,
        /// The segments.
        segments: Vec<SegmentInfo>,
    },
    /// Something for tests of users.
    Kit(super::test_kit::Order),
    /// Start no more attempts.
    Drain,
    /// Make everything durable, take a snapshot, end.
    Stop,
}

/// The partition is down: the log failed, or it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partition is down")]
pub struct Stopped;

/// Why a call has no answer.
#[derive(Debug, Clone)]
pub enum CallError {
    /// The partition is down.
    Stopped,
    /// The inbox stays full.
    Overloaded,
    /// The state machine refused.
    Refused(Error),
    /// The archive file that tells of a finished task, or may, cannot be read.
    Unreadable(TaskId),
    /// Another scheduler leads; its epoch.
    Fenced(u64),
}

impl From<Stopped> for CallError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Stopped => status::log_failed(),
            CallError::Overloaded => status::overloaded(),
            CallError::Refused(error) => status::refused(&error),
            CallError::Unreadable(task) => status::payload_lost(task, "record"),
            CallError::Fenced(epoch) => status::leadership_lost(epoch),
        }
    }
}

impl From<CallError> for tonic::Status {
    fn from(error: CallError) -> Self {
        Refused::from(error).into()
    }
}

impl From<Stopped> for tonic::Status {
    fn from(Stopped: Stopped) -> Self {
        status::log_failed().into()
    }
}

/// The way into a partition.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::UnboundedSender<Input>,
    room: Arc<Semaphore>,
    room_max: usize,
    outbox: Arc<Outbox>,
    payloads: Arc<Payloads>,
    files: Arc<OpenFiles>,
    threads: Arc<dyn Threads>,
    drained: watch::Receiver<bool>,
    sync_times: Arc<SyncTimes>,
}

/// What a handle is made of.
pub(super) struct Parts {
    pub(super) inbox: mpsc::UnboundedSender<Input>,
    pub(super) room: Arc<Semaphore>,
    pub(super) room_max: u32,
    pub(super) outbox: Arc<Outbox>,
    pub(super) payloads: Arc<Payloads>,
    pub(super) files: Arc<OpenFiles>,
    pub(super) threads: Arc<dyn Threads>,
    pub(super) drained: watch::Receiver<bool>,
    pub(super) sync_times: Arc<SyncTimes>,
}

impl Handle {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            inbox,
            room,
            room_max,
            outbox,
            payloads,
            files,
            threads,
            drained,
            sync_times,
        } = parts;
        Self {
            inbox,
            room,
            room_max: room_max as usize,
            outbox,
            payloads,
            files,
            threads,
            drained,
            sync_times,
        }
    }

    /// How long groups took to be durable.
    pub fn sync_times(&self) -> &SyncTimes {
        &self.sync_times
    }

    /// Opens a stream whose queue is cut beyond `bytes_max`.
    pub fn open(&self, bytes_max: usize) -> (ConnId, Arc<Outbound>) {
        self.outbox.open(bytes_max)
    }

    /// Forgets a stream. The state machine is told by a command of its own.
    pub fn close(&self, conn: ConnId) {
        self.outbox.close(conn);
    }

    /// Reads payloads that are not in memory, by their places and lengths. None if the reading was given up.
    pub async fn payloads(&self, wanted: Vec<(Offset, usize)>) -> Option<Vec<PayloadResult>> {
        let payloads = Arc::clone(&self.payloads);
        self.beside(move || payloads.read(&wanted)).await
    }

    /// Does what may wait for the disk beside the runtime. None if it was given up.
    pub(super) async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        // Whoever asked may be gone.
        let errand = move || drop(done.send(work()));
        self.threads.run(Box::new(errand));
        result.await.ok()
    }

    /// Finished tasks that are not in memory.
    pub(super) fn files(&self) -> &Arc<OpenFiles> {
        &self.files
    }

    /// Sends a command that carries `bytes` of payload. Waits while the inbox is full.
    pub async fn send(&self, command: Command, bytes: usize) -> Result<(), Stopped> {
        let cost = self.cost(bytes);
        let permit = self
            .room
            .acquire_many(cost as u32)
            .await
            .map_err(|_| Stopped)?;
        // Given back when the command's group is durable.
        permit.forget();
        self.inbox
            .send(Input::Command(command, cost))
            .map_err(|_| Stopped)
    }

    /// Sends a small command at once: what happened outside cannot wait for room.
    pub fn post(&self, command: Command) -> Result<(), Stopped> {
        self.inbox
            .send(Input::Command(command, 0))
            .map_err(|_| Stopped)
    }

    /// Sends a command and waits for its answer.
    pub async fn call(
        &self,
        bytes: usize,
        command: impl FnOnce(ReplyTag) -> Command,
    ) -> Result<Reply, CallError> {
        let (tag, answer) = self.outbox.expect();
        let waiting = Waiting {
            outbox: &self.outbox,
            tag,
        };
        let sent = tokio::time::timeout(ROOM_WAIT, self.send(command(tag), bytes)).await;
        sent.map_err(|_| CallError::Overloaded)??;
        let reply = answer.await.map_err(|_| CallError::Stopped)?;
        drop(waiting);
        match reply {
            Reply::Error(error) => Err(CallError::Refused(error)),
            Reply::Fenced(epoch) => Err(CallError::Fenced(epoch)),
            reply => Ok(reply),
        }
    }

    /// The same for a command of the scheduler of an epoch, which must still be the present one; None: any.
    pub async fn call_in(
        &self,
        epoch: Option<u64>,
        bytes: usize,
        command: impl FnOnce(ReplyTag) -> Command,
    ) -> Result<Reply, CallError> {
        let fenced = |tag| match epoch {
            Some(epoch) => Command::Fenced {
                tag,
                epoch,
                command: Box::new(command(tag)),
            },
            None => command(tag),
        };
        self.call(bytes, fenced).await
    }

    /// Asks the state machine. The answer comes when all that it rests on is durable.
    pub async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Partition, Millis) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (tx, rx) = oneshot::channel();
        let query = move |partition: &mut Partition, now: Millis| -> Deferred {
            let answer = ask(partition, now);
            // The asker may have given up.
            Box::new(move || drop(tx.send(answer)))
        };
        self.inbox
            .send(Input::Query(Box::new(query)))
            .map_err(|_| Stopped)?;
        rx.await.map_err(|_| Stopped)
    }

    /// Moves the clock ahead; answers with its time. Giving up the future stops the move.
    pub async fn advance(&self, advance: Advance) -> Result<Result<Millis, Stuck>, Stopped> {
        let (done, arrived) = oneshot::channel();
        self.kit(Order::Advance(advance, done))?;
        arrived.await.map_err(|_| Stopped)
    }

    /// Lets attempts fail from here on.
    pub fn add_fault(&self, fault: Fault) -> Result<(), Stopped> {
        self.kit(Order::Add(fault))
    }

    /// The faults, oldest first, and how often each struck.
    pub async fn faults(&self) -> Result<Vec<(Fault, u32)>, Stopped> {
        let (tell, told) = oneshot::channel();
        self.kit(Order::List(tell))?;
        told.await.map_err(|_| Stopped)
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) -> Result<(), Stopped> {
        self.kit(Order::Clear)
    }

    fn kit(&self, order: Order) -> Result<(), Stopped> {
        self.inbox.send(Input::Kit(order)).map_err(|_| Stopped)
    }

    /// Starts no more attempts from here on.
    pub fn drain(&self) {
        // An owner that is gone starts none.
        let _ = self.inbox.send(Input::Drain);
    }

    /// Waits until no attempt runs after [`Handle::drain`], or the partition is down.
    pub async fn drained(&self) {
        let mut drained = self.drained.clone();
        let _ = drained.wait_for(|drained| *drained).await;
    }

    /// Makes everything durable, takes a snapshot and ends the partition.
    pub fn stop(&self) {
        // An owner that is gone has stopped already.
        let _ = self.inbox.send(Input::Stop);
    }

    fn cost(&self, bytes: usize) -> usize {
        (bytes + COMMAND_COST).min(self.room_max)
    }
}

/// Forgets the tag of a call whose caller goes away.
struct Waiting<'a> {
    outbox: &'a Outbox,
    tag: ReplyTag,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.outbox.forget(self.tag);
    }
}
