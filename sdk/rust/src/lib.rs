//! Plait for Rust: durable tasks behind the stubs you have.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code is linted where it is generated from"
)]
#[rustfmt::skip]
#[path = "../gen/mod.rs"]
mod generated;

/// The messages and services of every contract in `proto/`, as generated: `pb::v1` and `pb::control::v1` are Plait's own.
pub mod pb {
    pub use crate::generated::plait::{control, v1};
    pub use crate::generated::*;
}
