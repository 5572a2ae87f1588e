//! The thread that writes archive files and removes those that are over. It stalls neither the owner nor the log.

use std::io;
use std::sync::Arc;

use plait_broker_core::Partition;
use plait_broker_core::ids::{ArchiveId, Millis};
use plait_broker_core::image::TaskImage;
use plait_broker_log::{Archive, BlockSink};
use tokio::sync::mpsc;

use super::RecoveryError;
use super::archived::OpenFiles;
use super::handle::Input;
use crate::journal;
use crate::threads::{Ended, Inflow, Threads};

/// Tasks taken from the state machine at once, about 0.2 ms.
const PART: usize = 512;

/// Parts on their way to the thread at most.
const PARTS_WAITING: usize = 8;

/// Tasks in a block of a file: what a reader decodes to find one.
const BLOCK: usize = 128;

/// How long nothing is archived after a file could not be written, ms: a full disk is not asked all the time.
const PAUSE_MS: Millis = 10_000;

/// Tasks on their way to a file.
enum Part {
    Tasks(Vec<TaskImage>),
    /// There are no more. Without it the file is not written.
    End,
}

/// Work for the thread, done in order.
enum Job {
    Write {
        archive: ArchiveId,
        parts: mpsc::Receiver<Part>,
    },
    Remove(Vec<ArchiveId>),
}

/// The owner's end.
pub(super) struct Archiver {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    /// The way to the file that is being filled.
    parts: Option<mpsc::Sender<Part>>,
    thread: Option<Ended>,
    /// Nothing is begun before.
    not_before: Millis,
}

/// Starts the thread.
pub(super) fn spawn(
    files: Arc<OpenFiles>,
    inbox: mpsc::WeakUnboundedSender<Input>,
    threads: &dyn Threads,
) -> Result<Archiver, RecoveryError> {
    // Bounded by the state machine: one file is written at a time, and each is removed once.
    let (jobs, mut queue) = mpsc::unbounded_channel();
    let may_block = threads.may_block();
    let work = async move {
        while let Some(job) = queue.recv().await {
            match job {
                Job::Write { archive, parts } => {
                    let mut parts = Inflow::of(parts, may_block).await;
                    let written = write(files.archive(), archive, &mut parts);
                    if let Some(inbox) = inbox.upgrade() {
                        let _ = inbox.send(Input::Archived { archive, written });
                    }
                }
                Job::Remove(archives) => files.remove(&archives),
            }
        }
    };
    let started = threads.start("archive", Box::pin(work));
    Ok(Archiver {
        jobs: Some(jobs),
        parts: None,
        thread: Some(started.map_err(RecoveryError::Thread)?),
        not_before: 0,
    })
}

impl Archiver {
    /// Moves some finished tasks on, if there are too many and the thread has room.
    pub(super) fn advance(&mut self, partition: &mut Partition, now: Millis) {
        if self.parts.is_none() && now >= self.not_before {
            let Some(archive) = partition.begin_archive() else {
                return;
            };
            let (sender, parts) = mpsc::channel(PARTS_WAITING);
            self.parts = Some(sender);
            self.send(Job::Write { archive, parts });
        }
        let Some(parts) = self.parts.take() else {
            return;
        };
        match parts.try_reserve() {
            Ok(permit) => {
                let tasks = partition.archive_part(PART);
                if tasks.is_empty() {
                    return permit.send(Part::End);
                }
                permit.send(Part::Tasks(tasks));
            }
            Err(mpsc::error::TrySendError::Full(())) => {}
            // The thread gave up, and says so.
            Err(mpsc::error::TrySendError::Closed(())) => return,
        }
        self.parts = Some(parts);
    }

    /// Waits until [`Archiver::advance`] can do something more; for ever if nothing is being moved.
    pub(super) async fn room(&self) {
        match &self.parts {
            // Without the thread there is room at once, and it is noticed.
            Some(parts) => drop(parts.reserve().await),
            None => std::future::pending().await,
        }
    }

    /// A file could not be written.
    pub(super) fn failed(&mut self, now: Millis) {
        self.not_before = now.saturating_add(PAUSE_MS);
    }

    /// What removes files, when that may be done.
    pub(super) fn remover(&self, archives: Vec<ArchiveId>) -> impl FnOnce() + Send + 'static {
        let jobs = self.jobs.clone();
        move || {
            // A thread that ended leaves the files to the next start.
            let _ = jobs.map(|jobs| jobs.send(Job::Remove(archives)));
        }
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A thread that ended shows by its closed parts.
            let _ = jobs.send(job);
        }
    }

    /// Gives up the file that is being filled and waits for the thread to end.
    pub(super) async fn finish(&mut self) {
        self.parts = None;
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed; what was not archived is in memory and in the log.
            let _ = thread.await;
        }
    }
}

/// Writes a file of what comes. Says whether it is durable.
fn write(files: &dyn Archive, archive: ArchiveId, parts: &mut Inflow<Part>) -> bool {
    let written = files.write(archive.0, &mut |out| {
        let mut waiting = Vec::with_capacity(PART);
        loop {
            match parts.next() {
                Some(Part::Tasks(tasks)) => waiting.extend(tasks),
                Some(Part::End) => break,
                None => return Err(io::Error::other("the archive was given up")),
            }
            while waiting.len() >= BLOCK {
                let rest = waiting.split_off(BLOCK);
                block(out, std::mem::replace(&mut waiting, rest))?;
            }
        }
        block(out, waiting)
    });
    match &written {
        Ok(()) => tracing::debug!(archive = archive.0, "an archive file was written"),
        Err(error) => tracing::warn!(%error, "an archive file could not be written"),
    }
    written.is_ok()
}

fn block(out: &mut dyn BlockSink, tasks: Vec<TaskImage>) -> io::Result<()> {
    let (Some(first), Some(last)) = (tasks.first(), tasks.last()) else {
        return Ok(());
    };
    let (first, last) = (first.id().0, last.id().0);
    let bytes = journal::encode_block(tasks).map_err(io::Error::other)?;
    out.block(first, last, &bytes)
}
