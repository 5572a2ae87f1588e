//! Identifiers of the state machine. Plain numbers; nothing here knows the wire.

use std::fmt;
use std::str::FromStr;

/// Time as the shell tells it: milliseconds since 1970 on a clock that never goes back. It follows
/// the monotonic clock inside a process; after a restart it is the later of the wall clock and the
/// last time in the log. So a clock that steps can never lengthen a deadline.
pub type Millis = u64;

/// Logical position in the partition's log.
pub type Offset = u64;

/// Number of a task: grows with every submission, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(pub u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:016x}", self.0)
    }
}

/// The text is not the id of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task id is \"t\" and 16 hexadecimal digits")]
pub struct ParseTaskIdError;

impl FromStr for TaskId {
    type Err = ParseTaskIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('t').ok_or(ParseTaskIdError)?;
        if digits.len() != 16 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseTaskIdError);
        }
        u64::from_str_radix(digits, 16)
            .map(TaskId)
            .map_err(|_| ParseTaskIdError)
    }
}

/// Number of an archive file: the upper half is the epoch of the log's owner that began it, the lower half a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ArchiveId(pub u64);

/// Fencing token of a lease. Grows with every lease of a task, over restarts too: the upper 24 bits
/// are the log's epoch, the lower 40 a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// A live stream of a worker, a submitter or a watcher. The shell numbers them and never reuses one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// Ties a reply to the request that asked for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplyTag(pub u64);

/// A submitter's session: 16 bytes that the client chose.
pub type SessionId = [u8; 16];
