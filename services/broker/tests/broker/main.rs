//! The broker's process against raw clients of its protocol.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![expect(
    clippy::large_futures,
    reason = "the futures of generated clients are large; tests are few"
)]

mod archive;
mod bad_streams;
mod bad_submissions;
mod contracts;
mod drain;
mod early;
mod fencing;
mod key_values;
mod listing;
mod lost_payloads;
mod metrics;
mod outcomes;
mod overload;
mod oversize;
mod plain_path;
mod process;
mod queues;
mod recovery;
mod scheduler;
mod sessions;
mod support;
mod tasks;
mod test_kit;
mod unary;
mod versions;
mod workers;
