//! The thread that writes the log. While it syncs one group, the owner forms the next.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plait_broker_core::ids::Offset;
use plait_broker_log::{Log, SnapshotInfo, SnapshotState};
use tokio::sync::{Notify, mpsc};

use super::handle::Input;
use super::snapshot::{self, Part};
use super::{Failure, RecoveryError};
use crate::clock::monotonic;
use crate::journal::EncodedFrame;
use crate::metrics::SyncTimes;
use crate::outbox::{Outbox, Release};
use crate::threads::{Ended, Inflow, Threads};

/// Groups on their way at once: one is synced, one waits. More would only make groups smaller.
const GROUPS_MAX: usize = 2;

/// A group on its way.
#[derive(Debug)]
pub(super) struct Sealed {
    /// What to make durable, if anything.
    pub(super) frame: Option<EncodedFrame>,
    /// Where the owner says that the frame is.
    pub(super) at: Offset,
    /// What follows.
    pub(super) release: Release,
}

/// Work for the thread, done in order.
#[derive(Debug)]
pub(super) enum Job {
    Group(Sealed),
    /// Make what comes the snapshot at `at`.
    Snapshot {
        at: Offset,
        parts: mpsc::Receiver<Part>,
    },
    /// Answer with `Input::Segments`.
    ListSegments,
    /// Let go of the segments that begin at `free`.
    Release {
        keep_from: Offset,
        free: Vec<Offset>,
    },
}

/// What the owner and the thread share.
#[derive(Debug, Default)]
struct Shared {
    groups: AtomicUsize,
    /// The owner waits for progress.
    wanted: AtomicBool,
    progress: Notify,
    failure: Mutex<Option<Failure>>,
    /// Of groups that became durable.
    times: Arc<SyncTimes>,
}

/// The owner's end.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    shared: Arc<Shared>,
    thread: Option<Ended>,
}

/// Starts the thread.
pub(super) fn spawn(
    log: Box<dyn Log>,
    outbox: Arc<Outbox>,
    inbox: mpsc::WeakUnboundedSender<Input>,
    threads: Arc<dyn Threads>,
) -> Result<Writer, RecoveryError> {
    // Bounded by the owner: at most GROUPS_MAX groups, a snapshot, and what follows from one.
    let (jobs, queue) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let mut thread = Thread {
        log,
        outbox,
        inbox,
        shared: Arc::clone(&shared),
        threads: Arc::clone(&threads),
        snapshot: None,
    };
    let work = async move { thread.run(queue).await };
    let started = threads.start("log", Box::pin(work));
    let thread = Some(started.map_err(RecoveryError::Thread)?);
    Ok(Writer {
        jobs: Some(jobs),
        shared,
        thread,
    })
}

impl Writer {
    /// How long groups took to be durable.
    pub(super) fn sync_times(&self) -> Arc<SyncTimes> {
        Arc::clone(&self.shared.times)
    }

    /// Whether another group may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.shared.groups.load(Ordering::SeqCst) < GROUPS_MAX
    }

    /// Whether nothing is on its way, so that nothing can be overtaken.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.groups.load(Ordering::SeqCst) == 0
    }

    pub(super) fn send_group(&self, sealed: Sealed) {
        self.shared.groups.fetch_add(1, Ordering::SeqCst);
        self.send(Job::Group(sealed));
    }

    /// A thread that ended is noticed by [`Writer::check`].
    pub(super) fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Waits until the thread failed or, when room is `wanted`, until there may be some.
    pub(super) async fn progress(&self, wanted: bool) {
        if wanted {
            self.shared.wanted.store(true, Ordering::SeqCst);
            // The thread may have been done just before.
            if self.has_room() {
                return;
            }
        }
        self.shared.progress.notified().await;
    }

    /// Whether the thread failed.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let mut failure = self
            .shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.take().map_or(Ok(()), Err)
    }

    /// Waits until all work is done and the log is closed.
    pub(super) async fn finish(&mut self) -> Result<(), Failure> {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            thread.await.map_err(|_| Failure::Writer)?;
        }
        self.check()
    }
}

/// The thread's own state.
struct Thread {
    log: Box<dyn Log>,
    outbox: Arc<Outbox>,
    inbox: mpsc::WeakUnboundedSender<Input>,
    shared: Arc<Shared>,
    threads: Arc<dyn Threads>,
    snapshot: Option<Ended>,
}

impl Thread {
    async fn run(&mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = queue.recv().await {
            let result = match job {
                Job::Group(sealed) => self.group(sealed),
                Job::Snapshot { at, parts } => self.begin_snapshot(at, parts).await,
                Job::ListSegments => {
                    self.list_segments();
                    Ok(())
                }
                Job::Release { keep_from, free } => self.release(keep_from, &free),
            };
            if let Err(failure) = result {
                tracing::error!(%failure, "the log failed; the broker stops");
                self.fail(failure);
                return;
            }
        }
        self.join_snapshot().await;
    }

    fn group(&mut self, sealed: Sealed) -> Result<(), Failure> {
        if let Some(frame) = &sealed.frame {
            self.append(frame, sealed.at)?;
        }
        self.outbox.release(sealed.release);
        self.shared.groups.fetch_sub(1, Ordering::SeqCst);
        if self.shared.wanted.swap(false, Ordering::SeqCst) {
            self.shared.progress.notify_one();
        }
        Ok(())
    }

    fn append(&mut self, frame: &EncodedFrame, expected: Offset) -> Result<(), Failure> {
        let found = self.log.tail();
        if found != expected {
            return Err(Failure::Misplaced { found, expected });
        }
        let mut parts = Vec::with_capacity(1 + frame.payloads.len());
        parts.push(IoSlice::new(&frame.head));
        parts.extend(frame.payloads.iter().map(|payload| IoSlice::new(payload)));
        let begun = monotonic();
        let found = self.log.append(&parts)?;
        let took = monotonic().saturating_duration_since(begun);
        self.shared.times.count(took);
        if found != expected {
            return Err(Failure::Misplaced { found, expected });
        }
        Ok(())
    }

    fn fail(&self, failure: Failure) {
        *self
            .shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(failure);
        self.shared.progress.notify_one();
    }

    /// Everything before this job is durable, so `at` is the tail.
    async fn begin_snapshot(
        &mut self,
        at: Offset,
        parts: mpsc::Receiver<Part>,
    ) -> Result<(), Failure> {
        self.join_snapshot().await;
        let writer = self.log.snapshot_writer();
        let inbox = self.inbox.clone();
        let may_block = self.threads.may_block();
        let write = async move {
            let mut parts = Inflow::of(parts, may_block).await;
            let mut bytes = 0;
            let installed = writer.install(at, &mut |out| {
                bytes = snapshot::write(&mut parts, out)?;
                Ok(())
            });
            let written = match installed {
                Ok(()) => Some(bytes),
                Err(error) => {
                    tracing::warn!(%error, at, "a snapshot could not be written");
                    None
                }
            };
            if let Some(inbox) = inbox.upgrade() {
                let _ = inbox.send(Input::SnapshotDone { written });
            }
        };
        let thread = self.threads.start("snapshot", Box::pin(write));
        self.snapshot = Some(thread.map_err(start_failure)?);
        Ok(())
    }

    async fn join_snapshot(&mut self) {
        if let Some(thread) = self.snapshot.take() {
            // One that panicked has said so, and is no snapshot.
            let _ = thread.await;
        }
    }

    fn list_segments(&self) {
        let keep_from = fallback(&self.log.snapshots());
        let segments = self.log.segments();
        if let Some(inbox) = self.inbox.upgrade() {
            let _ = inbox.send(Input::Segments {
                keep_from,
                segments,
            });
        }
    }

    fn release(&mut self, keep_from: Offset, free: &[Offset]) -> Result<(), Failure> {
        let released = self
            .log
            .release(keep_from, &|base, _| !free.contains(&base))?;
        let segments = released.segments.len();
        tracing::debug!(segments, recycled = released.recycled, "segments released");
        Ok(())
    }
}

fn start_failure(source: std::io::Error) -> Failure {
    Failure::Log(plait_broker_log::LogError::io(
        "start a thread for",
        "a snapshot",
    )(source))
}

/// From where on frames must stay, so that the log can be replayed also from the snapshot before the newest.
pub fn fallback(snapshots: &[SnapshotInfo]) -> Offset {
    let sound = snapshots
        .iter()
        .filter(|s| s.state != SnapshotState::Corrupt);
    let mut sound: Vec<Offset> = sound.map(|s| s.at).collect();
    sound.sort_unstable();
    sound.iter().rev().nth(1).copied().unwrap_or(0)
}
