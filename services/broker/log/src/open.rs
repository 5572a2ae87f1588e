//! Opening a file log, in two steps. The first looks at everything and writes nothing; the second claims the log for
//! this owner and makes durable what was found. Between the two the caller reads the log and decides whether it
//! understands what is in it, so that a directory of a later release is left as it is.

use std::path::Path;
use std::sync::Arc;

use crate::chain::Tail;
use crate::disk::{Disk, DiskLock, LockError};
use crate::file_log::begin_segment;
use crate::format::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::manifest::Manifest;
use crate::reader::Shared;
use crate::recovery::{self, Found, FoundLog};
use crate::spare::Spares;
use crate::{
    FileLog, FileLogOptions, Log, LogError, RealDisk, Recovery, SnapshotInfo, SnapshotState,
};

const LOCK: &str = "lock";

/// What was found and is to be done when the log is claimed.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    tail: Tail,
    spares: Vec<String>,
    garbage: Vec<String>,
}

impl FileLog {
    /// Opens the log in a directory of the machine, creating both if they are absent. See
    /// [`FileLog::open_on`].
    pub fn open(dir: &Path, options: FileLogOptions) -> Result<Self, LogError> {
        let path = dir.display().to_string();
        let disk = RealDisk::new(dir).map_err(LogError::io("open the directory", path))?;
        Self::open_on(Arc::new(disk), options)
    }

    /// Opens the log on a disk: takes the lock, checks everything from the newest snapshot to the
    /// tail, cuts a torn tail, and makes the new epoch durable. Nothing is written unless all is
    /// sound.
    pub fn open_on(disk: Arc<dyn Disk>, options: FileLogOptions) -> Result<Self, LogError> {
        let mut log = Self::inspect_on(disk, options)?;
        log.claim()?;
        Ok(log)
    }

    /// As [`FileLog::open_on`], but a log that is there is only read until [`Log::claim`]: no byte
    /// of the directory changes. Two files may appear in a directory that lacks them: an empty lock
    /// file, and in one without a log, a new log.
    pub fn inspect_on(disk: Arc<dyn Disk>, options: FileLogOptions) -> Result<Self, LogError> {
        let options = options.sane();
        let mut lock = take_lock(&*disk)?;
        let spares = Spares::new(Arc::clone(&disk), options.background);
        let (mut found, created) = match recovery::inspect(&*disk, options.verify_all)? {
            Found::Nothing { garbage } => {
                announce(&mut *lock, &*disk)?;
                (create(&*disk, &spares, &options, &garbage)?, true)
            }
            Found::Log(mut found) => {
                found.manifest.epoch += 1;
                found.manifest.tail = found.tail.at;
                (found, false)
            }
        };
        let recovery = Recovery {
            created,
            frames: found.tail.frames,
            torn_bytes: found.tail.torn,
        };
        let unclaimed = (!created).then(|| Unclaimed {
            tail: std::mem::take(&mut found.tail),
            spares: std::mem::take(&mut found.spares),
            garbage: std::mem::take(&mut found.garbage),
        });
        let parts = (spares, recovery, unclaimed, lock);
        Ok(Self::assemble(disk, options, found, parts))
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        options: FileLogOptions,
        found: FoundLog,
        (spares, recovery, unclaimed, lock): (
            Spares,
            Recovery,
            Option<Unclaimed>,
            Box<dyn DiskLock>,
        ),
    ) -> Self {
        let FoundLog {
            manifest,
            segments,
            active,
            snapshots,
            ..
        } = found;
        let unread = |at| SnapshotInfo {
            at,
            state: SnapshotState::Unread,
        };
        let snapshots = snapshots.into_iter().map(unread).collect();
        let shared = Shared::new(disk, &manifest, segments, snapshots);
        if unclaimed.is_none() {
            shared.set_claimed();
        }
        let capacity = active.bytes().max(options.first_segment_bytes);
        Self {
            active_limit: active.base() + capacity.saturating_sub(SEGMENT_HEADER_LEN),
            tail: active.end(),
            shared: Arc::new(shared),
            options,
            manifest,
            active,
            spares,
            scratch: Vec::new(),
            recovery,
            unclaimed,
            lock,
        }
    }

    /// See [`Log::claim`].
    pub(crate) fn claim_found(&mut self) -> Result<(), LogError> {
        let Some(unclaimed) = self.unclaimed.take() else {
            return Ok(());
        };
        let disk = Arc::clone(&self.shared.disk);
        announce(&mut *self.lock, &*disk)?;
        recovery::repair(&*disk, &self.active, &unclaimed.tail, &unclaimed.garbage)?;
        self.manifest.store(&*disk)?;
        for name in unclaimed.spares {
            let path = disk.describe(&name);
            let adopted = self
                .spares
                .adopt(name, &|bytes| self.options.is_full_size(bytes));
            adopted.map_err(LogError::io("adopt", path))?;
        }
        self.shared.set_claimed();
        Ok(())
    }
}

fn take_lock(disk: &dyn Disk) -> Result<Box<dyn DiskLock>, LogError> {
    disk.lock(LOCK).map_err(|error| match error {
        LockError::Held(pid) => LogError::Locked {
            file: disk.describe(LOCK),
            pid,
        },
        LockError::Io(source) => LogError::io("lock", disk.describe(LOCK))(source),
    })
}

fn announce(lock: &mut dyn DiskLock, disk: &dyn Disk) -> Result<(), LogError> {
    lock.announce()
        .map_err(LogError::io("write", disk.describe(LOCK)))
}

/// Begins a log: the first segment, then the manifest, from which on the segment must exist.
fn create(
    disk: &dyn Disk,
    spares: &Spares,
    options: &FileLogOptions,
    garbage: &[String],
) -> Result<FoundLog, LogError> {
    recovery::remove(disk, garbage)?;
    let spare = spares
        .prepare(options.first_segment_bytes)
        .map_err(LogError::io("create", disk.describe("")))?;
    let (log_id, salt) = (disk.entropy(), disk.entropy());
    let header = SegmentHeader {
        log_id,
        base: 0,
        prev_base: 0,
        epoch: 1,
        salt,
    };
    let active = Arc::new(begin_segment(disk, header, spare)?);
    let manifest = Manifest {
        log_id,
        epoch: 1,
        ..Manifest::default()
    };
    manifest.store(disk)?;
    Ok(FoundLog::new(manifest, active))
}
