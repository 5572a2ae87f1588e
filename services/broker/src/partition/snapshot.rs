//! When snapshots are taken, and what they are made of.

use std::io::{self, Write};

use bytes::Bytes;
use plait_broker_core::Partition;
use plait_broker_core::ids::{Millis, Offset};
use plait_broker_log::Log;
use tokio::sync::mpsc;

use crate::journal::{self, JournalError};
use crate::threads::Inflow;

/// How often a large state is written: when the log grew by so many times its length. A task takes some 50 bytes of
/// a snapshot and some hundreds of the log, so a restart replays about as much as it loads.
const GROWTH: u64 = 8;

/// Decides when a snapshot is due.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Growth of the log between two.
    every: u64,
    /// The log's offset of the last one.
    last_at: Offset,
    /// Length of the last one.
    last_bytes: u64,
    underway: Option<Offset>,
    /// Whether there is one, so that segments may go.
    present: bool,
}

impl Schedule {
    pub(super) fn new(every: u64, log: &dyn Log, last_bytes: u64) -> Self {
        let last = log.snapshots().iter().map(|snapshot| snapshot.at).max();
        Self {
            every: every.max(1),
            last_at: last.unwrap_or(0),
            last_bytes,
            underway: None,
            present: last.is_some(),
        }
    }

    /// Whether the log grew enough.
    pub(super) fn is_due(&self, tail: Offset) -> bool {
        let grown = tail - self.last_at;
        self.underway.is_none() && grown >= self.every.max(GROWTH * self.last_bytes)
    }

    /// Whether anything came after the last one.
    pub(super) fn is_stale(&self, tail: Offset) -> bool {
        self.underway.unwrap_or(self.last_at) != tail
    }

    pub(super) fn begun(&mut self, at: Offset) {
        self.underway = Some(at);
    }

    /// Notes the end of one, and its length if it was written. Says whether segments may go.
    pub(super) fn done(&mut self, written: Option<u64>) -> bool {
        let at = self.underway.take();
        // A failed one is tried again after as much growth, not at once.
        self.last_at = at.unwrap_or(self.last_at);
        if let Some(bytes) = written {
            self.last_bytes = bytes;
            self.present = true;
        }
        written.is_some()
    }

    pub(super) fn may_release(&self) -> bool {
        self.present
    }
}

/// Chunks that may wait for the disk, about 16 KiB each.
const CHUNKS_WAITING: usize = 64;

/// A part of a snapshot on its way to the disk.
#[derive(Debug)]
pub(super) enum Part {
    /// Bytes to write.
    Chunk(Bytes),
    /// There is no more. Without it what was written is not a snapshot.
    End,
}

/// The way from the partition to the disk.
pub(super) fn channel() -> (mpsc::Sender<Part>, mpsc::Receiver<Part>) {
    mpsc::channel(CHUNKS_WAITING)
}

/// Sends the state as it is. Ends early when nobody writes it any more.
pub(super) async fn send(
    partition: &Partition,
    now: Millis,
    parts: mpsc::Sender<Part>,
) -> Result<(), JournalError> {
    for record in partition.image(now) {
        let chunk = journal::encode_image(vec![record], now)?;
        if parts.send(Part::Chunk(chunk)).await.is_err() {
            return Ok(());
        }
    }
    // Whoever writes may be gone; it has said why.
    let _ = parts.send(Part::End).await;
    Ok(())
}

/// Writes what comes. Answers with its length.
pub(super) fn write(parts: &mut Inflow<Part>, out: &mut dyn Write) -> io::Result<u64> {
    let mut bytes = 0;
    loop {
        match parts.next() {
            Some(Part::Chunk(chunk)) => {
                bytes += chunk.len() as u64;
                out.write_all(&chunk)?;
            }
            Some(Part::End) => return Ok(bytes),
            None => return Err(io::Error::other("the snapshot was given up")),
        }
    }
}
