//! What the writer and all readers of one log share, and reading it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use crate::disk::Disk;
use crate::format::{FRAME_HEADER_LEN, FrameHeader};
use crate::manifest::Manifest;
use crate::segment::{Segment, Step, Walk};
use crate::{Frame, LogError, LogReader, Offset, SegmentInfo, SnapshotInfo};

/// Shared by the log, its readers, its snapshot writers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log_id: u64,
    pub(crate) epoch: u64,
    segments: RwLock<BTreeMap<Offset, Arc<Segment>>>,
    tail: AtomicU64,
    /// From here on the log has no gap.
    floor: AtomicU64,
    poisoned: AtomicBool,
    /// Whether this owner may write; see `open`.
    claimed: AtomicBool,
    snapshots: Mutex<Vec<SnapshotInfo>>,
    /// Held while a snapshot is written: one at a time.
    pub(crate) installing: Mutex<()>,
}

/// Locks, whether or not another holder panicked: all state here is replaced in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        manifest: &Manifest,
        segments: Vec<Arc<Segment>>,
        snapshots: Vec<SnapshotInfo>,
    ) -> Self {
        let tail = segments.last().map_or(0, |last| last.end());
        let segments = segments.into_iter().map(|s| (s.base(), s)).collect();
        Self {
            disk,
            log_id: manifest.log_id,
            epoch: manifest.epoch,
            segments: RwLock::new(segments),
            tail: AtomicU64::new(tail),
            floor: AtomicU64::new(manifest.floor),
            poisoned: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            snapshots: Mutex::new(snapshots),
            installing: Mutex::new(()),
        }
    }

    pub(crate) fn tail(&self) -> Offset {
        self.tail.load(Ordering::Acquire)
    }

    pub(crate) fn set_tail(&self, tail: Offset) {
        self.tail.store(tail, Ordering::Release);
    }

    pub(crate) fn floor(&self) -> Offset {
        self.floor.load(Ordering::Acquire)
    }

    pub(crate) fn set_floor(&self, floor: Offset) {
        self.floor.store(floor, Ordering::Release);
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn set_claimed(&self) {
        self.claimed.store(true, Ordering::Release);
    }

    /// Whether the log is claimed, and no error made its state unknown.
    pub(crate) fn check_writable(&self) -> Result<(), LogError> {
        if self.poisoned.load(Ordering::Acquire) {
            Err(LogError::Poisoned)
        } else if self.claimed.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(LogError::Unclaimed)
        }
    }

    /// Syncs the directory. A failure poisons the log: it shares the directory with what failed.
    pub(crate) fn sync_dir(&self) -> Result<(), LogError> {
        self.disk.sync_dir().map_err(|source| {
            self.poison();
            self.dir_error(source)
        })
    }

    fn dir_error(&self, source: io::Error) -> LogError {
        LogError::Io {
            op: "sync the directory",
            file: self.disk.describe(""),
            source,
        }
    }

    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        let mut segments = self
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        segments.insert(segment.base(), segment);
    }

    /// Takes a segment out of every later reader's sight.
    pub(crate) fn remove_segment(&self, base: Offset) -> Option<Arc<Segment>> {
        self.segments
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&base)
    }

    pub(crate) fn segment_infos(&self) -> Vec<SegmentInfo> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().map(|segment| segment.info()).collect()
    }

    pub(crate) fn snapshots(&self) -> MutexGuard<'_, Vec<SnapshotInfo>> {
        lock(&self.snapshots)
    }

    /// The segment that holds the offset, unless it is past that segment's end.
    fn segment_at(&self, at: Offset) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let (_, segment) = segments.range(..=at).next_back()?;
        (at < segment.end()).then(|| Arc::clone(segment))
    }

    /// Whether a frame may be due at `at`: one starts there, or it is the tail.
    pub(crate) fn check_boundary(&self, at: Offset) -> Result<(), LogError> {
        if at == self.tail() {
            return Ok(());
        }
        self.frame(at).map(|_| ())
    }
}

impl LogReader for Shared {
    fn read(&self, at: Offset, len: usize) -> Result<Bytes, LogError> {
        if len == 0 && at <= self.tail() {
            return Ok(Bytes::new());
        }
        let missing = LogError::OutOfRange {
            at,
            len: len as u64,
        };
        let Some(segment) = self.segment_at(at) else {
            return Err(missing);
        };
        if len as u64 > segment.end() - at {
            return Err(missing);
        }
        segment.read(at, len)
    }

    fn frame(&self, at: Offset) -> Result<Frame, LogError> {
        let missing = LogError::OutOfRange {
            at,
            len: FRAME_HEADER_LEN,
        };
        let segment = self.segment_at(at).ok_or(missing)?;
        let room = segment.end() - at;
        if room < FRAME_HEADER_LEN {
            return Err(LogError::NotAFrame { at });
        }
        let raw = segment.read(at, FRAME_HEADER_LEN as usize)?;
        let header = FrameHeader::decode(&raw, at, segment.header.salt)
            .map_err(|_| LogError::NotAFrame { at })?;
        // Bounded by the frame, so that the walk reads no more than it.
        let limit = at + header.size().min(room);
        let mut walk = Walk::new(Arc::clone(&segment), at, limit);
        match walk.step()? {
            Step::Frame(frame) => Ok(frame),
            Step::Bad(bad) => Err(segment.corrupt(at, bad.describe())),
            Step::End => Err(LogError::NotAFrame { at }),
        }
    }

    fn locate(&self, at: Offset) -> Result<Range<Offset>, LogError> {
        let missing = LogError::OutOfRange { at, len: 1 };
        let segment = self.segment_at(at).ok_or(missing)?;
        let Some((start, header)) = segment.header_before(at)? else {
            return Err(segment.corrupt(segment.base(), "no frame begins before what is asked for"));
        };
        let end = start + header.size();
        if at >= start + FRAME_HEADER_LEN + u64::from(header.len) {
            return Err(segment.corrupt(end.min(at), "no frame begins where one must"));
        }
        Ok(start..end)
    }
}

/// The frames from one offset to the tail.
#[derive(Debug)]
pub(crate) struct Frames {
    shared: Arc<Shared>,
    walk: Option<Walk>,
    next: Offset,
    tail: Offset,
}

impl Frames {
    pub(crate) fn new(shared: Arc<Shared>, from: Offset) -> Result<Self, LogError> {
        let tail = shared.tail();
        if from > tail {
            return Err(LogError::OutOfRange { at: from, len: 0 });
        }
        shared.check_boundary(from)?;
        Ok(Self {
            shared,
            walk: None,
            next: from,
            tail,
        })
    }

    fn advance(&mut self) -> Result<Frame, LogError> {
        let mut walk = self.take_walk()?;
        let frame = match walk.step()? {
            Step::Frame(frame) => frame,
            Step::Bad(bad) => return Err(walk.segment().corrupt(walk.at(), bad.describe())),
            Step::End => return Err(walk.segment().corrupt(walk.at(), "a cut frame")),
        };
        self.next = walk.at();
        self.walk = Some(walk);
        Ok(frame)
    }

    /// The walk that stands at `next`, of the segment that holds it.
    fn take_walk(&mut self) -> Result<Walk, LogError> {
        if let Some(walk) = self.walk.take().filter(|walk| walk.at() < walk.limit()) {
            return Ok(walk);
        }
        let missing = LogError::OutOfRange {
            at: self.next,
            len: FRAME_HEADER_LEN,
        };
        let segment = self.shared.segment_at(self.next).ok_or(missing)?;
        let limit = segment.end().min(self.tail);
        Ok(Walk::new(segment, self.next, limit))
    }
}

impl Iterator for Frames {
    type Item = Result<Frame, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.tail {
            return None;
        }
        let frame = self.advance();
        if frame.is_err() {
            self.next = self.tail;
        }
        Some(frame)
    }
}
