//! A partition in operation: one task owns the state machine, one thread writes the log, and what
//! follows from a command happens only when its records are durable.
//!
//! [`Handle`] is what others hold. Nothing here knows the wire.

mod archived;
mod archiver;
mod group;
mod handle;
mod lookup;
mod owner;
mod recovery;
mod snapshot;
mod test_kit;
mod writer;

pub use crate::outbox::Witness;
pub use archived::ReadError;
pub use handle::{CallError, Handle, Stopped};
pub use lookup::{Keep, Listing, Page};
pub use recovery::{RecoveryError, State as RecoveredState, check_archives, claim, recover};
pub use test_kit::{Advance, Fault, Harm, Stuck, Until};
pub use writer::fallback;

use std::sync::Arc;

use plait_broker_core::Config;
use plait_broker_core::ids::Millis;
use plait_broker_log::{Log, LogError, Payloads};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use archived::OpenFiles;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::journal::JournalError;
use crate::outbox::Outbox;
use crate::splits;
use crate::threads::{OwnThreads, Threads};
use crate::weights;

/// How a partition is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limits of the state machine. The epoch is taken from the log.
    pub core: Config,
    /// Bytes of commands that may wait or be on their way to the disk. Beyond it, senders wait.
    pub inbox_bytes_max: u32,
    /// A snapshot is taken when the log grew by this many bytes since the last one, and by as much as that one took.
    pub snapshot_bytes: u64,
}

/// What a partition takes from the world, beside its log.
#[derive(Debug)]
pub struct Surroundings {
    /// Where it does what may wait for the disk.
    pub threads: Arc<dyn Threads>,
    /// The wall clock, read once at the start.
    pub wall: fn() -> Millis,
    /// Its randomness.
    pub entropy: Entropy,
    /// Who is told what it does, if anybody.
    pub witness: Option<Arc<dyn Witness>>,
    /// Whether its clock can be moved ahead, and attempts be made to fail: for tests of users.
    pub test_kit: bool,
}

impl Surroundings {
    /// Those of a process.
    pub fn of_process() -> Self {
        Self {
            threads: Arc::new(OwnThreads),
            wall: crate::clock::wall,
            entropy: Entropy::from_os(),
            witness: None,
            test_kit: false,
        }
    }
}

/// Why a partition is down.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The log could not be written: what was not acknowledged may or may not be durable.
    #[error("writing the log: {0}")]
    Log(#[from] LogError),
    /// A record that cannot be written as it is: a defect.
    #[error("encoding the log: {0}")]
    Journal(#[from] JournalError),
    /// The log put a frame elsewhere than it said: a defect.
    #[error("the log put a frame at {found}, not at {expected}")]
    Misplaced {
        /// Where it went.
        found: u64,
        /// Where its payloads were said to be.
        expected: u64,
    },
    /// The log's thread ended by itself.
    #[error("the log's thread ended")]
    Writer,
}

/// What was found at start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovered {
    /// Records read from the snapshot.
    pub snapshot_records: u64,
    /// Frames read from the log.
    pub frames: u64,
    /// Records in those.
    pub records: u64,
}

/// A running partition.
#[derive(Debug)]
pub struct Running {
    /// The way in.
    pub handle: Handle,
    /// Ends when the partition does: well after [`Handle::stop`], else with the failure.
    pub owner: JoinHandle<Result<(), Failure>>,
    /// What was found at start.
    pub recovered: Recovered,
}

/// Rebuilds the state from the log, claims it, and starts the partition.
pub fn start(
    mut log: Box<dyn Log>,
    options: Options,
    surroundings: Surroundings,
) -> Result<Running, RecoveryError> {
    let Surroundings {
        threads,
        wall,
        mut entropy,
        witness,
        test_kit,
    } = surroundings;
    let config = Config {
        epoch: log.epoch(),
        ..options.core
    };
    let state = recovery::recover(&*log, config, entropy.draw())?;
    let stale = recovery::check_archives(&*log.archive(), &state.partition)?;
    recovery::claim(&mut *log, &stale)?;
    let clock = Clock::starting_after(wall(), state.time);
    let mut partition = state.partition;
    partition.recovered(clock.now());
    splits::restore(&mut partition, clock.now());
    weights::restore(&mut partition, clock.now());
    let files = Arc::new(OpenFiles::new(log.archive()));
    let room = Arc::new(Semaphore::new(options.inbox_bytes_max as usize));
    let outbox = Arc::new(Outbox::new(Arc::clone(&room), witness));
    let (inbox, inputs) = mpsc::unbounded_channel();
    let payloads = Arc::new(Payloads::new(log.reader()));
    let (_, tasks) = partition.load();
    let snapshots = snapshot::Schedule::new(
        options.snapshot_bytes,
        log.snapshots(),
        state.snapshot_bytes,
        tasks,
    );
    let tail = log.tail();
    let writer = writer::spawn(
        log,
        Arc::clone(&outbox),
        inbox.downgrade(),
        Arc::clone(&threads),
    )?;
    let archiver = archiver::spawn(Arc::clone(&files), inbox.downgrade(), &*threads)?;
    let (drained, is_drained) = watch::channel(false);
    let handle = Handle::new(handle::Parts {
        inbox,
        room,
        room_max: options.inbox_bytes_max,
        outbox: Arc::clone(&outbox),
        payloads,
        files,
        threads,
        drained: is_drained,
        sync_times: writer.sync_times(),
    });
    let owner = owner::Owner::new(owner::Parts {
        partition,
        clock,
        entropy,
        inputs,
        writer,
        archiver,
        outbox,
        tail,
        snapshots,
        drained,
        test_kit: test_kit.then(test_kit::TestKit::default),
    });
    Ok(Running {
        handle,
        owner: tokio::spawn(owner.run()),
        recovered: state.found,
    })
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod power;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
