//! The limits of what comes in and goes out.

use std::time::Duration;

/// Limits of requests and streams. Sizes are in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of one request or response message of a task. Default 1 MiB.
    pub payload_bytes_max: usize,
    /// Of the metadata of one task. Default 16 KiB.
    pub metadata_bytes_max: usize,
    /// Of an idempotency, ordering, limit or child key. Default 1 KiB.
    pub key_bytes_max: usize,
    /// Tasks in one submission. Default 4096.
    pub frame_tasks_max: usize,
    /// What may wait to be read on one stream before its reader counts as too slow. Default 64 MiB.
    pub outbound_bytes_max: usize,
    /// How often either side of a worker's stream says something. Three of them without a word mean that the other is
    /// gone. Default 5 s.
    pub heartbeat_interval: Duration,
    /// How long a stream may take to say hello. Default 5 s.
    pub hello_timeout: Duration,
    /// How long an announced contract waits for the scheduler. Default 10 s.
    pub decision_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1 << 20,
            metadata_bytes_max: 16 << 10,
            key_bytes_max: 1 << 10,
            frame_tasks_max: 4096,
            outbound_bytes_max: 64 << 20,
            heartbeat_interval: Duration::from_secs(5),
            hello_timeout: Duration::from_secs(5),
            decision_timeout: Duration::from_secs(10),
        }
    }
}

/// A frame that goes out holds at most this many attempts or results ...
pub const FRAME_ITEMS: usize = 256;

/// ... and ends with the one that takes its payloads over this many bytes.
pub const FRAME_BYTES: usize = 1 << 20;

impl Limits {
    /// The longest message that is decoded: a frame of tasks with payloads, keys and metadata.
    pub fn message_bytes_max(&self) -> usize {
        (4 << 20).max(2 * self.payload_bytes_max + FRAME_BYTES)
    }
}
