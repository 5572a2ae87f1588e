//! When snapshots are taken, and what they are made of.

use bytes::Bytes;
use plait_broker_core::Partition;
use plait_broker_core::ids::{Millis, Offset};
use plait_broker_log::Log;

use crate::journal::{self, JournalError};

/// Decides when a snapshot is due.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Growth of the log between two.
    every: u64,
    /// The log's offset of the last one.
    last_at: Offset,
    /// Length of the last one: a large state is written less often, so snapshots never cost more than the log itself.
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
        self.underway.is_none() && grown >= self.every.max(self.last_bytes)
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

/// The state as chunks of a snapshot.
pub(super) fn image(partition: &Partition, now: Millis) -> Result<Vec<Bytes>, JournalError> {
    partition
        .image(now)
        .map(|record| journal::encode_image(vec![record], now))
        .collect()
}
