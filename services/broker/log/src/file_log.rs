//! The local backend: a log in one directory. Appending, beginning segments. How it is opened is in `open`.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use crate::archive::{Archive, Archives};
use crate::disk::{Disk, DiskLock};
use crate::format::{
    FRAME_HEADER_LEN, FrameHeader, SEGMENT_HEADER_LEN, SegmentHeader, frame_size, segment_name,
};
use crate::manifest::Manifest;
use crate::open::Unclaimed;
use crate::reader::{Frames, Shared};
use crate::segment::Segment;
use crate::snapshot::{self, FileSnapshotWriter};
use crate::spare::{Spare, Spares};
use crate::{
    FileLogOptions, FrameIter, Log, LogError, LogReader, Offset, Recovery, Released, SegmentInfo,
    Snapshot, SnapshotInfo, SnapshotWriter,
};

/// From so many parts on they are joined first: one copy is cheaper than many descriptors, and
/// the system takes at most 1,024 at once.
const PARTS_JOINED: usize = 64;

/// A new log's segments grow by this factor up to the full size, so that a small log stays small.
const GROWTH: u64 = 4;

/// A log in one directory, on the [`Disk`] it was opened on.
///
/// Dropping it proves the tail in the manifest (unless the log is poisoned) and lets the lock go.
/// Readers may outlive it; its snapshot writers then fail with [`LogError::Poisoned`].
#[derive(Debug)]
pub struct FileLog {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: FileLogOptions,
    pub(crate) manifest: Manifest,
    pub(crate) active: Arc<Segment>,
    /// Frames go into the active segment up to here.
    pub(crate) active_limit: Offset,
    pub(crate) tail: Offset,
    pub(crate) spares: Spares,
    pub(crate) scratch: Vec<u8>,
    pub(crate) recovery: Recovery,
    /// What a claim has still to do; none: the log is claimed.
    pub(crate) unclaimed: Option<Unclaimed>,
    pub(crate) lock: Box<dyn DiskLock>,
}

impl FileLog {
    /// What the open found and did.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    fn append_or_poison(&mut self, parts: &[IoSlice<'_>], len: u64) -> Result<Offset, LogError> {
        let appended = self.try_append(parts, len);
        if appended.is_err() {
            self.shared.poison();
        }
        appended
    }

    fn try_append(&mut self, parts: &[IoSlice<'_>], len: u64) -> Result<Offset, LogError> {
        let size = frame_size(len);
        let empty = self.tail == self.active.base();
        if !empty && size > self.active_limit.saturating_sub(self.tail) {
            self.begin_next_segment(size)?;
        }
        let offset = self.tail;
        self.write_frame(parts, offset, len)?;
        if !crate::mutant::is(crate::mutant::Mutant::NoSync) {
            self.active
                .file
                .sync()
                .map_err(LogError::io("sync", &self.active.path))?;
        }
        self.tail = offset + size;
        self.active.advance(self.tail);
        self.shared.set_tail(self.tail);
        self.prepare_ahead();
        Ok(offset)
    }

    fn write_frame(
        &mut self,
        parts: &[IoSlice<'_>],
        offset: Offset,
        len: u64,
    ) -> Result<(), LogError> {
        let body_sum = parts
            .iter()
            .fold(crc32c(&[]), |sum, part| crc32c_append(sum, part));
        let (epoch, salt) = (self.manifest.epoch, self.active.header.salt);
        let header = FrameHeader {
            len: len as u32,
            epoch,
            salt,
            body_sum,
        }
        .encode(offset);
        let padding = [0; 8];
        let padding = &padding[..(frame_size(len) - FRAME_HEADER_LEN - len) as usize];
        let mut slices = Vec::with_capacity(PARTS_JOINED + 2);
        slices.push(IoSlice::new(&header));
        if parts.len() > PARTS_JOINED {
            self.scratch.clear();
            parts
                .iter()
                .for_each(|part| self.scratch.extend_from_slice(part));
            slices.push(IoSlice::new(&self.scratch));
        } else {
            slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        }
        slices.push(IoSlice::new(padding));
        let position = self.active.position(offset);
        let written = self.active.file.write_at(&mut slices, position);
        written.map_err(LogError::io("write", &self.active.path))
    }

    fn begin_next_segment(&mut self, frame: u64) -> Result<(), LogError> {
        let wanted = self.next_segment_bytes();
        let oversize = frame > wanted - SEGMENT_HEADER_LEN;
        let spare = if oversize {
            self.spares.empty()
        } else {
            self.spares.take(wanted)
        };
        let spare = spare.map_err(LogError::io(
            "create a segment in",
            self.shared.disk.describe(""),
        ))?;
        let capacity = spare.bytes.max(wanted).max(SEGMENT_HEADER_LEN + frame);
        let header = SegmentHeader {
            log_id: self.manifest.log_id,
            base: self.tail,
            prev_base: self.active.base(),
            epoch: self.manifest.epoch,
            salt: self.shared.disk.entropy(),
        };
        self.active = Arc::new(begin_segment(&*self.shared.disk, header, spare)?);
        self.active_limit = self.tail + capacity - SEGMENT_HEADER_LEN;
        self.shared.add_segment(Arc::clone(&self.active));
        Ok(())
    }

    fn next_segment_bytes(&self) -> u64 {
        let active = self.active_limit - self.active.base() + SEGMENT_HEADER_LEN;
        (active * GROWTH).min(self.options.segment_bytes)
    }

    /// Asks for the next file as early as can be, for zeroing takes long; but in its first segment
    /// a log that hardly grows takes no more space.
    fn prepare_ahead(&mut self) {
        let used = self.tail - self.active.base();
        let grows = self.active.base() > 0 || used >= self.active_limit / 4;
        if grows && self.spares.idle() {
            self.spares.request(self.next_segment_bytes());
        }
    }
}

/// Makes a spare a segment: the header is durable before the name is, and the name before any
/// frame.
pub(crate) fn begin_segment(
    disk: &dyn Disk,
    header: SegmentHeader,
    spare: Spare,
) -> Result<Segment, LogError> {
    let name = segment_name(header.base);
    let path = disk.describe(&name);
    let write = || -> io::Result<()> {
        spare
            .file
            .write_at(&mut [IoSlice::new(&header.encode())], 0)?;
        spare.file.sync()?;
        disk.rename(&spare.name, &name)?;
        if crate::mutant::is(crate::mutant::Mutant::NoDirSync) {
            return Ok(());
        }
        disk.sync_dir()
    };
    write().map_err(LogError::io("begin", &path))?;
    let bytes = spare.bytes.max(SEGMENT_HEADER_LEN);
    Ok(Segment::new(header, spare.file, path, bytes))
}

impl Log for FileLog {
    fn epoch(&self) -> u64 {
        self.manifest.epoch
    }

    fn tail(&self) -> Offset {
        self.tail
    }

    fn claim(&mut self) -> Result<(), LogError> {
        self.claim_found()
    }

    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<Offset, LogError> {
        self.shared.check_writable()?;
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let max = u64::from(self.options.body_bytes_max);
        if len > max {
            return Err(LogError::TooLarge { len, max });
        }
        self.append_or_poison(parts, len)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::<Shared>::clone(&self.shared)
    }

    fn frames(&self, from: Offset) -> Result<FrameIter<'_>, LogError> {
        Ok(Box::new(Frames::new(Arc::clone(&self.shared), from)?))
    }

    fn snapshot_writer(&self) -> Box<dyn SnapshotWriter> {
        Box::new(FileSnapshotWriter(Arc::clone(&self.shared)))
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(Archives(Arc::clone(&self.shared)))
    }

    fn load_snapshot(&self) -> Result<Option<Snapshot>, LogError> {
        snapshot::load(&self.shared)
    }

    fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.shared.snapshots().clone()
    }

    fn release(
        &mut self,
        keep_from: Offset,
        pinned: &dyn Fn(Offset, Offset) -> bool,
    ) -> Result<Released, LogError> {
        self.release_segments(keep_from, pinned)
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segment_infos()
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        if self.shared.check_writable().is_ok() {
            self.manifest.tail = self.tail;
            // Without it the next open only knows less about the tail.
            let _ = self.manifest.store(&*self.shared.disk);
        }
        // The guard waits for a snapshot's rename under way; later ones see the poison.
        let _no_commit = self.shared.snapshots();
        self.shared.poison();
    }
}
