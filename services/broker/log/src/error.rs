//! The one error type of the crate.

use std::io;

use crate::Offset;

/// Why a log could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk (or the store behind the log) refused. After an append this poisons the log.
    #[error("{op} {file}: {source}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// The file it was attempted on.
        file: String,
        /// The cause.
        source: io::Error,
    },
    /// An earlier I/O error made this log's durable state unknown: open it anew.
    #[error("the log is poisoned by an earlier I/O error; open it anew")]
    Poisoned,
    /// The log was only looked at. Nothing was changed.
    #[error("the log is not claimed, so nothing may be written")]
    Unclaimed,
    /// Another process owns the directory.
    #[error("{file} is locked by {}", owner(*.pid))]
    Locked {
        /// The lock file.
        file: String,
        /// The process that holds it, if it left its number.
        pid: Option<u32>,
    },
    /// Bytes that were durable are not what was written. Nothing was changed.
    #[error("{file} is corrupt at byte {position}: {found}")]
    Corrupt {
        /// The file.
        file: String,
        /// The place in the file.
        position: u64,
        /// What was found there.
        found: String,
    },
    /// A segment that must exist does not. Nothing was changed.
    #[error("the segment that starts at offset {base} is missing: {detail}")]
    MissingSegment {
        /// Where the missing segment starts.
        base: Offset,
        /// How it is known.
        detail: String,
    },
    /// The file was written by a later release. Nothing was changed.
    #[error(
        "{file} has format version {found}, this release reads versions 1 to {supported}; nothing \
         was changed: start the release that wrote it, or a later one"
    )]
    FutureFormat {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// The frame is larger than the log takes. Nothing was changed.
    #[error("a frame of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// The body's length.
        len: u64,
        /// The longest body taken.
        max: u64,
    },
    /// The bytes asked for are not held: released, not yet written, or across two segments.
    #[error("{len} bytes at offset {at} are not held by the log")]
    OutOfRange {
        /// The offset asked for.
        at: Offset,
        /// The length asked for.
        len: u64,
    },
    /// No frame starts at the offset.
    #[error("no frame starts at offset {at}")]
    NotAFrame {
        /// The offset asked for.
        at: Offset,
    },
    /// The snapshot's offset is below the newest snapshot.
    #[error("a snapshot at offset {at} is older than the newest, at {newest}")]
    SnapshotTooOld {
        /// The offset asked for.
        at: Offset,
        /// The newest snapshot's offset.
        newest: Offset,
    },
    /// No intact snapshot is left from which the log can be replayed.
    #[error("no snapshot to start from: the log begins at offset {begins}; {detail}")]
    NoSnapshot {
        /// The first offset from which the log has no gap.
        begins: Offset,
        /// What is wrong with the snapshots there are.
        detail: String,
    },
}

impl LogError {
    /// Wraps an I/O error with what was attempted on which file.
    pub fn io(op: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { op, file, source }
    }

    pub(crate) fn corrupt(file: &str, position: u64, found: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.to_owned(),
            position,
            found: found.into(),
        }
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
