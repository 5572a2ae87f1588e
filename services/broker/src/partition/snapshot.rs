//! When snapshots are taken, and what they are made of.

use std::io::{self, Write};

use bytes::Bytes;
use plait_broker_core::Partition;
use plait_broker_core::ids::{Millis, Offset};
use plait_broker_log::{SnapshotInfo, SnapshotState};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

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
    /// The log's offset when one was last tried.
    tried_at: Offset,
    /// The log's offset of the newest, and of the one before: from there on segments are kept.
    newest: Option<Offset>,
    fallback: Option<Offset>,
    /// Length of the newest, and how many tasks were in memory when it was taken.
    last_bytes: u64,
    last_tasks: u64,
    underway: Option<(Offset, u64)>,
    /// The last try came to nothing.
    failed: bool,
}

impl Schedule {
    /// `taken` are the log's snapshots, `last_bytes` is the length of the newest, and `tasks` are in memory now.
    pub(super) fn new(
        every: u64,
        mut taken: Vec<SnapshotInfo>,
        last_bytes: u64,
        tasks: u64,
    ) -> Self {
        taken.retain(|found| found.state != SnapshotState::Corrupt);
        taken.sort_unstable_by_key(|found| found.at);
        let mut taken = taken.iter().rev().map(|found| found.at);
        let newest = taken.next();
        Self {
            every: every.max(1),
            tried_at: newest.unwrap_or(0),
            newest,
            fallback: taken.next(),
            last_bytes,
            last_tasks: tasks,
            underway: None,
            failed: false,
        }
    }

    /// Whether the log grew enough, or keeps a stretch that is out of proportion to the tasks there are now: once
    /// a large backlog is done, two snapshots let go of its log, without waiting for as much again.
    pub(super) fn is_due(&self, tail: Offset, tasks: u64) -> bool {
        if self.underway.is_some() {
            return false;
        }
        let enough = self.every.max(GROWTH * self.expected_bytes(tasks));
        let grown = tail - self.tried_at;
        let kept = tail - self.fallback.or(self.newest).unwrap_or(tail);
        grown >= enough || grown > 0 && kept >= 2 * enough && !self.failed
    }

    /// Whether anything came after the last one.
    pub(super) fn is_stale(&self, tail: Offset) -> bool {
        self.underway.map_or(self.tried_at, |(at, _)| at) != tail
    }

    pub(super) fn begun(&mut self, at: Offset, tasks: u64) {
        self.underway = Some((at, tasks));
    }

    /// Notes the end of one, and its length if it was written. Says whether segments may go.
    pub(super) fn done(&mut self, written: Option<u64>) -> bool {
        let Some((at, tasks)) = self.underway.take() else {
            return false;
        };
        // A failed one is tried again after as much growth, not at once.
        self.tried_at = at;
        self.failed = written.is_none();
        if let Some(bytes) = written {
            self.fallback = self.newest.replace(at);
            (self.last_bytes, self.last_tasks) = (bytes, tasks);
        }
        written.is_some()
    }

    pub(super) fn may_release(&self) -> bool {
        self.newest.is_some()
    }

    /// Length of a snapshot taken now, if tasks are what it is made of; no longer than the last one.
    fn expected_bytes(&self, tasks: u64) -> u64 {
        let share = tasks.min(self.last_tasks) as f64 / self.last_tasks.max(1) as f64;
        (self.last_bytes as f64 * share) as u64
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

/// Tasks in a part.
const TASKS: usize = 256;

/// Parts taken between two groups: some hundred microseconds.
const PARTS_AT_ONCE: usize = 4;

/// Tasks saved because they changed before they were taken, for each further part at once. A queue is worked off in
/// the order in which its tasks are taken, so they stay few; if they do not, the snapshot hurries to get past them.
const SAVED_PER_PART: usize = 256;

/// Parts taken between two groups at most: some 50 ms, which is what a call may wait longer for a snapshot's sake.
const PARTS_MAX: usize = 256;

/// Tasks saved beyond which a slow disk is waited for: it bounds memory.
const SAVED_MAX: usize = 1 << 16;

/// A snapshot that is being taken from the partition, while both go on.
#[derive(Debug, Default)]
pub(super) struct Taking {
    parts: Option<mpsc::Sender<Part>>,
    now: Millis,
}

impl Taking {
    /// Begins a snapshot of the state as it is at `now`. What comes out is to be written.
    pub(super) fn begin(&mut self, partition: &mut Partition, now: Millis) -> mpsc::Receiver<Part> {
        let (parts, queue) = mpsc::channel(CHUNKS_WAITING);
        partition.begin_image(now);
        (self.parts, self.now) = (Some(parts), now);
        queue
    }

    /// Takes the next parts, more of them the more is kept in memory for it, as far as there is room.
    pub(super) async fn advance(&mut self, partition: &mut Partition) -> Result<(), JournalError> {
        let Some(parts) = self.parts.take() else {
            return Ok(());
        };
        let saved = partition.image_backlog();
        for _ in 0..parts_at_once(saved) {
            let room = match parts.try_reserve() {
                Err(TrySendError::Full(())) if saved <= SAVED_MAX => break,
                Err(TrySendError::Full(())) => parts.reserve().await.ok(),
                room => room.ok(),
            };
            let Some(permit) = room else {
                // Whoever wrote it is gone, and has said why.
                partition.abandon_image();
                return Ok(());
            };
            let (part, more) = part(partition, self.now)?;
            permit.send(part);
            if !more {
                return Ok(());
            }
        }
        self.parts = Some(parts);
        Ok(())
    }

    /// Takes all that is left.
    pub(super) async fn finish(&mut self, partition: &mut Partition) -> Result<(), JournalError> {
        let Some(parts) = self.parts.take() else {
            return Ok(());
        };
        loop {
            let (part, more) = part(partition, self.now)?;
            if parts.send(part).await.is_err() {
                partition.abandon_image();
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Waits until [`advance`](Self::advance) can do something more; for ever if nothing is being taken.
    pub(super) async fn room(&self) {
        match &self.parts {
            // Without a writer there is room at once, and it is noticed.
            Some(parts) => drop(parts.reserve().await),
            None => std::future::pending().await,
        }
    }
}

fn parts_at_once(saved: usize) -> usize {
    (PARTS_AT_ONCE + saved / SAVED_PER_PART).min(PARTS_MAX)
}

/// The next part, and whether there are more.
fn part(partition: &mut Partition, now: Millis) -> Result<(Part, bool), JournalError> {
    match partition.image_part(TASKS) {
        Some(record) => {
            let chunk = journal::encode_image(vec![record], now)?;
            Ok((Part::Chunk(chunk), true))
        }
        None => Ok((Part::End, false)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A schedule over an empty log, with a snapshot after every 100 bytes.
    fn schedule() -> Schedule {
        Schedule::new(100, Vec::new(), 0, 0)
    }

    fn taken(schedule: &mut Schedule, at: Offset, tasks: u64, bytes: u64) {
        assert!(schedule.is_due(at, tasks), "not due at {at}");
        schedule.begun(at, tasks);
        assert!(!schedule.is_due(at + 10_000, tasks), "one is under way");
        assert!(schedule.done(Some(bytes)));
    }

    #[test]
    fn a_large_state_is_written_less_often() {
        let mut schedule = schedule();
        assert!(!schedule.is_due(99, 1_000));
        taken(&mut schedule, 100, 1_000, 50);
        assert!(!schedule.is_due(499, 1_000));
        taken(&mut schedule, 500, 5_000, 250);
    }

    #[test]
    fn once_a_backlog_is_done_two_snapshots_let_go_of_its_log() {
        let mut schedule = schedule();
        taken(&mut schedule, 100, 1_000, 50);
        taken(&mut schedule, 500, 5_000, 250);
        assert!(!schedule.is_due(2_000, 4_000));
        taken(&mut schedule, 2_000, 5, 10);
        assert!(!schedule.is_due(2_000, 5), "the same again");
        // From 500 on the log is still kept.
        taken(&mut schedule, 2_001, 5, 10);
        assert!(!schedule.is_due(2_100, 5));
        taken(&mut schedule, 2_101, 5, 10);
    }

    #[test]
    fn what_failed_is_not_tried_again_at_once() {
        let mut schedule = schedule();
        taken(&mut schedule, 100, 1_000, 50);
        taken(&mut schedule, 500, 5_000, 250);
        schedule.begun(2_000, 5);
        assert!(!schedule.done(None));
        assert!(!schedule.is_due(2_099, 5));
        taken(&mut schedule, 2_100, 5, 10);
    }

    #[test]
    fn a_snapshot_hurries_the_more_is_kept_for_it_but_holds_nothing_up_for_long() {
        assert_eq!(parts_at_once(0), PARTS_AT_ONCE);
        assert!(parts_at_once(SAVED_MAX / 8) > 4 * PARTS_AT_ONCE);
        // Beyond, memory is bounded because far more is taken between two groups than a group can change.
        assert_eq!(parts_at_once(SAVED_MAX), PARTS_MAX);
        assert_eq!(parts_at_once(usize::MAX), PARTS_MAX);
    }
}
