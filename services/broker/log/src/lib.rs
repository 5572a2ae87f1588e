//! The durable log of one partition: the [`Log`] trait and its local backend, [`FileLog`].
//!
//! A log is a row of **frames**. A frame is one group commit: an opaque body that is on the disk
//! when [`Log::append`] returns. Beside the frames a log holds **snapshots**, each the caller's
//! state at one offset; the newest snapshot and the frames from its offset on are all that a
//! restart needs. Frames below it may go, in whole segments, unless a payload inside is still
//! wanted ([`Log::release`]).
//!
//! This crate knows nothing of tasks, records or protobuf, spawns nothing but one thread that
//! prepares files, and reads no clock. It holds no policy: when to take a snapshot and what to
//! release is the caller's decision.
//!
//! - [`FileLog`] keeps its bytes in one directory; the bytes are described in [`mod@format`].
//! - [`conformance`] is the suite that every backend passes.
//! - All its file work goes through [`disk::Disk`], so that [`sim::SimDisk`] can lose power.

mod archive;
mod chain;
pub mod conformance;
pub mod disk;
mod error;
mod file_log;
pub mod format;
mod manifest;
#[doc(hidden)]
pub mod mutant;
mod open;
mod options;
mod payloads;
mod reader;
mod real_disk;
mod recovery;
mod release;
mod segment;
pub mod sim;
mod snapshot;
mod spare;

use std::fmt::Debug;
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use archive::{Archive, ArchiveFile, BlockSink};
pub use error::LogError;
pub use file_log::FileLog;
pub use format::FRAME_HEADER_LEN;
pub use options::{FileLogOptions, Recovery};
pub use payloads::{PayloadResult, Payloads};
pub use real_disk::RealDisk;

/// Logical byte offset in the log. It grows for ever and is independent of segments.
pub type Offset = u64;

/// The durable log of one partition, owned by one writer.
pub trait Log: Debug + Send + 'static {
    /// The number of this ownership. It grows with each open, is durable before the claim returns, and
    /// is written into every frame: an older owner is recognised by its smaller epoch.
    fn epoch(&self) -> u64;

    /// Where the next frame will start.
    fn tail(&self) -> Offset;

    /// Makes this owner the log's: what was found becomes durable, and an earlier owner is fenced.
    /// Until then the log can be read, [`Log::epoch`] tells the epoch to come, and every write
    /// fails with [`LogError::Unclaimed`]. Does nothing to a log that is claimed. After an error
    /// only a new open may go on. Default: nothing, for logs that are born claimed.
    fn claim(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    /// Appends one frame made of `parts` in order and returns the offset at which it starts. On
    /// return the frame is durable.
    ///
    /// A frame that is too large is refused with [`LogError::TooLarge`] and changes nothing. Any
    /// I/O error poisons the log: whether that frame is durable is then unknown, and every later
    /// append fails with [`LogError::Poisoned`]. Only a new open may go on.
    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<Offset, LogError>;

    /// A reader that works from any thread while the log is appended to, and outlives the log.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// The frames from `from`, which must be the start of a frame or the tail, to the tail at the
    /// time of the call. Every frame is checked. A retained [`Frame::body`] may pin its
    /// neighbours (about 1 MiB): copy what is kept for long.
    fn frames(&self, from: Offset) -> Result<FrameIter<'_>, LogError>;

    /// Writes a snapshot of the caller's state at `at` and makes it durable, on this thread.
    /// The simple form of [`Log::snapshot_writer`].
    fn install_snapshot(
        &mut self,
        at: Offset,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), LogError> {
        self.snapshot_writer().install(at, write)
    }

    /// A writer of snapshots for another thread. Appends go on while it works.
    fn snapshot_writer(&self) -> Box<dyn SnapshotWriter>;

    /// The archive files beside the log. It works from any thread, and outlives the log only for reading.
    fn archive(&self) -> Arc<dyn Archive>;

    /// The newest intact snapshot, checked in full before the first byte is handed out, or none
    /// if the log reaches back to its beginning. A corrupt snapshot is passed over if the log
    /// still reaches back to an older one; [`Log::snapshots`] then shows it as corrupt.
    fn load_snapshot(&self) -> Result<Option<Snapshot>, LogError>;

    /// The snapshots held, oldest first.
    fn snapshots(&self) -> Vec<SnapshotInfo>;

    /// Lets go of segments that lie wholly below `keep_from` and for which `pinned(base, end)` is
    /// false, and returns what went. Never goes past the newest snapshot that was installed or
    /// loaded since open. To be able to fall back to the older snapshot, pass its offset.
    fn release(
        &mut self,
        keep_from: Offset,
        pinned: &dyn Fn(Offset, Offset) -> bool,
    ) -> Result<Released, LogError>;

    /// The segments held, oldest first. The last one is being written.
    fn segments(&self) -> Vec<SegmentInfo>;
}

/// Frames in the order of their offsets.
pub type FrameIter<'a> = Box<dyn Iterator<Item = Result<Frame, LogError>> + Send + 'a>;

/// A snapshot's offset and its bytes.
pub type Snapshot = (Offset, Box<dyn Read + Send>);

/// Reads durable bytes of the log from any thread.
pub trait LogReader: Debug + Send + Sync {
    /// The `len` bytes at `at`, which must lie inside one segment and below the tail: usually a
    /// payload inside a frame's body. Empty bytes are read anywhere up to the tail.
    ///
    /// **Not checked against the frame's checksum**, which would mean to read the whole frame. What
    /// is served to anybody is read by [`Payloads`], which checks it.
    fn read(&self, at: Offset, len: usize) -> Result<Bytes, LogError>;

    /// The frame that starts at `at`, checked. One read serves every payload of the frame.
    /// [`LogError::NotAFrame`] means a wrong offset or a damaged header.
    fn frame(&self, at: Offset) -> Result<Frame, LogError>;

    /// Where the frame whose body holds the byte at `at` lies, header included. Only its header is
    /// checked. [`LogError::Corrupt`] means that there must be a frame and is none.
    fn locate(&self, at: Offset) -> Result<Range<Offset>, LogError>;
}

/// Writes snapshots beside the log, on any thread.
pub trait SnapshotWriter: Debug + Send {
    /// Makes what `write` writes the snapshot at `at`: durable on return, absent on error.
    /// `at` must be a frame's start or the tail, and not below the newest snapshot; an equal one
    /// is replaced. The two newest snapshots are kept.
    fn install(
        &self,
        at: Offset,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), LogError>;
}

/// One frame: what one append made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where the frame starts. Its body starts [`FRAME_HEADER_LEN`] later.
    pub offset: Offset,
    /// The epoch of the owner that wrote it.
    pub epoch: u64,
    /// The parts given to [`Log::append`], joined.
    pub body: Bytes,
}

impl Frame {
    /// Where the next frame starts.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.offset + format::frame_size(self.body.len() as u64)
    }
}

/// One segment of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The offset of its first frame.
    pub base: Offset,
    /// The offset after its last frame.
    pub end: Offset,
    /// What it takes on the disk, prepared space included.
    pub bytes: u64,
}

/// One snapshot of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The offset whose state it holds.
    pub at: Offset,
    /// What is known of its bytes.
    pub state: SnapshotState,
}

/// What is known of a snapshot's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    /// Found at open and not read yet.
    Unread,
    /// Written, or read and found intact, since open.
    Intact,
    /// Read and found corrupt.
    Corrupt,
}

/// What a release let go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// The segments that went, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// How many of them were kept as files for later segments.
    pub recycled: usize,
}
