//! Snapshots: the caller's state at one offset, as bytes.
//!
//! Written beside the log to a temporary file, synced, renamed, and only then counted. Only a
//! counted snapshot lets segments go, so a crash at any point leaves either the old one with its
//! segments or the new one.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PLAITSNP` |
//! | 8..12 | format version |
//! | 12..16 | zero |
//! | 16..24 | log id |
//! | 24..32 | offset of the state |
//! | 32..n | the caller's bytes |
//! | n..n+8 | `PLAITEND` |
//! | n+8..n+16 | length of the caller's bytes |
//! | n+16..n+20 | checksum of all before |

use std::fmt;
use std::io::{self, BufWriter, IoSlice, Read, Write};
use std::sync::Arc;

use crc32c::crc32c_append;

use crate::disk::{self, Disk, DiskFile};
use crate::format::{self, FORMAT_VERSION, snapshot_name, u32_at, u64_at};
use crate::reader::{Shared, lock};
use crate::{LogError, Offset, SnapshotInfo, SnapshotState, SnapshotWriter};

const MAGIC: &[u8; 8] = b"PLAITSNP";
const END_MAGIC: &[u8; 8] = b"PLAITEND";
const HEADER: u64 = 32;
const TRAILER: u64 = 20;
/// The two newest are kept: if the newest turns out corrupt, the other may still serve.
const KEPT: usize = 2;
/// Synced this often, so that an append's sync never queues behind a whole snapshot.
const SYNC_EVERY: u64 = 4 * 1024 * 1024;
const BUFFER: usize = 256 * 1024;

/// Writes snapshots of one log, on any thread.
#[derive(Debug)]
pub(crate) struct FileSnapshotWriter(pub(crate) Arc<Shared>);

impl SnapshotWriter for FileSnapshotWriter {
    fn install(
        &self,
        at: Offset,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let shared = &*self.0;
        let _one_at_a_time = lock(&shared.installing);
        check(shared, at)?;
        let name = snapshot_name(at);
        // The epoch keeps apart what a writer left from an earlier owner may still be doing.
        let temporary = format!("{name}.{}.tmp", shared.epoch);
        let written = write_file(shared, &temporary, at, write);
        let path = shared.disk.describe(&name);
        let committed = written
            .map_err(LogError::io("write the snapshot", &path))
            .and_then(|()| commit(shared, at, &temporary));
        if committed.is_err() {
            // What cannot be removed now is removed at the next open.
            let _ = shared.disk.remove(&temporary);
        }
        committed
    }
}

fn check(shared: &Shared, at: Offset) -> Result<(), LogError> {
    shared.check_writable()?;
    let newest = newest_usable(&shared.snapshots());
    if let Some(newest) = newest.filter(|newest| at < *newest) {
        return Err(LogError::SnapshotTooOld { at, newest });
    }
    shared.check_boundary(at)
}

fn newest_usable(snapshots: &[SnapshotInfo]) -> Option<Offset> {
    let usable = |s: &&SnapshotInfo| s.state != SnapshotState::Corrupt;
    snapshots.iter().rev().find(usable).map(|s| s.at)
}

fn write_file(
    shared: &Shared,
    name: &str,
    at: Offset,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = shared.disk.create(name)?;
    let mut out = BufWriter::with_capacity(
        BUFFER,
        Summed {
            file,
            at: 0,
            sum: 0,
            synced: 0,
        },
    );
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT_VERSION.to_le_bytes())?;
    out.write_all(&[0; 4])?;
    out.write_all(&shared.log_id.to_le_bytes())?;
    out.write_all(&at.to_le_bytes())?;
    write(&mut out)?;
    out.flush()?;
    let len = out.get_ref().at - HEADER;
    out.write_all(END_MAGIC)?;
    out.write_all(&len.to_le_bytes())?;
    out.flush()?;
    let sum = out.get_ref().sum;
    out.write_all(&sum.to_le_bytes())?;
    out.flush()?;
    if crate::mutant::is(crate::mutant::Mutant::SnapshotNotSynced) {
        return Ok(());
    }
    out.get_ref().file.sync()
}

/// Renames the finished file and counts it. This is all that anyone may have to wait for.
fn commit(shared: &Shared, at: Offset, temporary: &str) -> Result<(), LogError> {
    let name = snapshot_name(at);
    let mut snapshots = shared.snapshots();
    // The log may have been poisoned or dropped meanwhile: then the directory is not ours.
    shared.check_writable()?;
    let path = shared.disk.describe(&name);
    shared
        .disk
        .rename(temporary, &name)
        .map_err(LogError::io("rename to", path))?;
    shared.sync_dir()?;
    snapshots.retain(|s| s.at != at);
    snapshots.push(SnapshotInfo {
        at,
        state: SnapshotState::Intact,
    });
    snapshots.sort_by_key(|s| s.at);
    prune(&*shared.disk, &mut snapshots);
    Ok(())
}

/// Removes what is corrupt and all but the newest. What cannot be removed stays, harmless.
pub(crate) fn prune(disk: &dyn Disk, snapshots: &mut Vec<SnapshotInfo>) {
    let is_corrupt = |s: &SnapshotInfo| s.state == SnapshotState::Corrupt;
    let usable = snapshots.iter().filter(|s| !is_corrupt(s)).count();
    let mut surplus = usable.saturating_sub(KEPT);
    snapshots.retain(|snapshot| {
        let surplus_one = !is_corrupt(snapshot) && surplus > 0;
        surplus -= usize::from(surplus_one);
        let goes = surplus_one || is_corrupt(snapshot);
        !(goes && disk.remove(&snapshot_name(snapshot.at)).is_ok())
    });
}

/// The newest intact snapshot. See [`crate::Log::load_snapshot`].
pub(crate) fn load(shared: &Shared) -> Result<Option<crate::Snapshot>, LogError> {
    let mut snapshots = shared.snapshots();
    let mut trouble = "there is no snapshot".to_owned();
    for snapshot in snapshots.iter_mut().rev() {
        if snapshot.at < shared.floor() {
            break;
        }
        match open(shared, snapshot.at) {
            Ok(body) => {
                snapshot.state = SnapshotState::Intact;
                return Ok(Some((snapshot.at, Box::new(body))));
            }
            Err(error @ LogError::Corrupt { .. }) => {
                snapshot.state = SnapshotState::Corrupt;
                trouble = error.to_string();
            }
            Err(other) => return Err(other),
        }
    }
    if shared.floor() == 0 {
        return Ok(None);
    }
    Err(LogError::NoSnapshot {
        begins: shared.floor(),
        detail: trouble,
    })
}

/// Opens a snapshot and reads all of it once, to hand out only what is intact.
fn open(shared: &Shared, at: Offset) -> Result<Body, LogError> {
    let name = snapshot_name(at);
    let path = shared.disk.describe(&name);
    let file = shared
        .disk
        .open(&name)
        .map_err(LogError::io("open", &path))?;
    let size = file.size().map_err(LogError::io("read", &path))?;
    let mut header = vec![0; size.min(HEADER) as usize];
    disk::read_exact(&*file, &mut header, 0).map_err(LogError::io("read", &path))?;
    format::check_preamble(&header, MAGIC, &path)?;
    if size < HEADER + TRAILER {
        return Err(LogError::corrupt(&path, size, "the file ends here"));
    }
    if (u64_at(&header, 16), u64_at(&header, 24)) != (shared.log_id, at) {
        return Err(LogError::corrupt(
            &path,
            16,
            "a snapshot of another log or offset",
        ));
    }
    check_trailer(&*file, size, &path)?;
    Ok(Body {
        file,
        at: HEADER,
        end: size - TRAILER,
    })
}

fn check_trailer(file: &dyn DiskFile, size: u64, path: &str) -> Result<(), LogError> {
    let mut trailer = [0; TRAILER as usize];
    let at = size - TRAILER;
    disk::read_exact(file, &mut trailer, at).map_err(LogError::io("read", path))?;
    if trailer[..8] != END_MAGIC[..] || u64_at(&trailer, 8) != at - HEADER {
        return Err(LogError::corrupt(
            path,
            at,
            "the end mark or the length is wrong",
        ));
    }
    let sum = sum_of(file, size - 4).map_err(LogError::io("read", path))?;
    if sum != u32_at(&trailer, 16) {
        return Err(LogError::corrupt(path, size - 4, "the checksum is wrong"));
    }
    Ok(())
}

fn sum_of(file: &dyn DiskFile, len: u64) -> io::Result<u32> {
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut sum) = (0, 0);
    while at < len {
        let piece = (len - at).min(BUFFER as u64) as usize;
        disk::read_exact(file, &mut buffer[..piece], at)?;
        sum = crc32c_append(sum, &buffer[..piece]);
        at += piece as u64;
    }
    Ok(sum)
}

/// Writes to a file from its start and sums what goes by.
struct Summed {
    file: Arc<dyn DiskFile>,
    at: u64,
    sum: u32,
    synced: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(&mut [IoSlice::new(bytes)], self.at)?;
        self.sum = crc32c_append(self.sum, bytes);
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The caller's bytes in a snapshot file.
struct Body {
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = (self.end - self.at).min(buf.len() as u64) as usize;
        let count = self.file.read_at(&mut buf[..len], self.at)?;
        if count == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("at", &self.at)
            .field("end", &self.end)
            .finish()
    }
}
