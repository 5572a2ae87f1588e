//! How a file log lays out its files, and what its open reports.

use crate::format::SEGMENT_HEADER_LEN;

/// How a [`crate::FileLog`] lays out its files. The defaults suit production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLogOptions {
    /// The size of a segment file. Default 64 MiB. A frame that is larger gets its own.
    pub segment_bytes: u64,
    /// The size of a new log's first segment; the next ones grow up to `segment_bytes`.
    /// Default 1 MiB, prepared before open returns (2 ms).
    pub first_segment_bytes: u64,
    /// The longest body of a frame. Default 256 MiB; the format bears 4 GiB.
    pub body_bytes_max: u32,
    /// How many released files are kept for later segments; the others are removed. Default 4.
    pub spares_max: usize,
    /// Whether a thread prepares files ahead. Default yes; without it they are prepared when
    /// needed, on the appending thread (for simulation).
    pub background: bool,
    /// Whether open checks also the frames below the newest snapshot, which no restart reads.
    /// Default no.
    pub verify_all: bool,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            first_segment_bytes: 1024 * 1024,
            body_bytes_max: 256 * 1024 * 1024,
            spares_max: 4,
            background: true,
            verify_all: false,
        }
    }
}

impl FileLogOptions {
    /// A segment holds at least its header and as much again.
    pub(crate) fn sane(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.max(2 * SEGMENT_HEADER_LEN);
        let first = self.first_segment_bytes;
        self.first_segment_bytes = first.clamp(2 * SEGMENT_HEADER_LEN, self.segment_bytes);
        self
    }

    /// Whether a file is worth being used again: about as large as a segment. A segment that was
    /// not prepared ends a little short of it.
    pub(crate) fn is_full_size(&self, bytes: u64) -> bool {
        (self.segment_bytes - self.segment_bytes / 8..=self.segment_bytes).contains(&bytes)
    }
}

/// What an open found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether there was no log yet.
    pub created: bool,
    /// How many frames were checked.
    pub frames: u64,
    /// How many bytes of a torn, never acknowledged frame were cut at the tail.
    pub torn_bytes: u64,
}
