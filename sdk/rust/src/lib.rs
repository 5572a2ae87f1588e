//! Plait for Rust: durable tasks behind the stubs you have.
//!
//! A team writes its `.proto` once, with a policy on each method, and implements it with the tonic service it already
//! has. [`Plait::channel`] under the generated client makes a call durable; [`Plait::submit`] answers with a handle;
//! [`Plait::worker`] runs the generated server. A handler that makes durable calls is a flow, and its calls are
//! memoised ([`flow`]). [`Plait::direct`] in the place of `channel` calls a live worker, with no task.
//!
//! Every error is a [`tonic::Status`]; see [`errors`].

#![warn(missing_docs)]

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated code is linted where it is generated from"
)]
#[rustfmt::skip]
#[path = "../gen/mod.rs"]
mod generated;

/// The messages and services of every contract in `proto/`, as generated: `pb::v1` and `pb::control::v1` are Plait's
/// own.
pub mod pb {
    pub use crate::generated::plait::{control, v1};
    // Not Envoy's, which are for finding workers only.
    pub use crate::generated::{airport, google, plait, testing};

    /// The descriptors of every contract in `proto/`, as a serialized `FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("../gen/plait.fds.binpb");
}

/// What fuzz targets reach into. Not part of the library: there only with `--cfg fuzzing`.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// The text of a key in a serialized request; the error in words.
    ///
    /// # Errors
    /// When the request or the path is not what it should be.
    pub fn key_text(path: &crate::pb::v1::KeyPath, message: &[u8]) -> Result<String, String> {
        crate::keys::text(path, message).map_err(|error| error.to_string())
    }
}

mod attach;
mod attempt;
pub mod breaker;
mod channel;
pub mod client;
mod clock;
mod codec;
mod contracts;
pub mod deadline;
mod descriptors;
mod direct;
pub mod errors;
mod flags;
pub mod flow;
mod frame;
mod invoke;
mod keys;
pub mod limiter;
mod listener;
mod many;
mod metadata;
mod number_map;
mod options;
mod order;
mod placed;
pub mod retry;
mod session;
mod task;
pub mod testing;
pub mod trace;
mod wire;
pub mod worker;

pub use attempt::Attempt;
pub use channel::Channel;
pub use client::{Builder, Plait};
pub use direct::DirectChannel;
pub use flags::{Flag, flag};
pub use flow::attempt;
pub use many::{Responses, Submissions};
pub use options::Options;
pub use task::{ParseTaskIdError, Task, TaskId, TaskInfo, TaskState};
pub use worker::{RunningWorker, Worker};
