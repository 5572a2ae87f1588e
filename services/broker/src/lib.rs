//! The broker: keeps the facts, dispatches at full speed.
//!
//! It never decides policy and never decodes a user's message. The state machine is `plait-broker-core`, the durable
//! log is `plait-broker-log`; this crate joins them to the wire. Direction: main → server → servicer → partition and
//! journal → core and log.

pub mod clock;
pub mod config;
pub mod entropy;
pub mod filter;
pub mod journal;
pub mod limits;
mod logging;
pub mod metrics;
mod nosync;
pub mod outbound;
mod outbox;
pub mod panics;
pub mod partition;
pub mod policy;
pub mod server;
pub mod servicer;
pub mod splits;
pub mod states;
pub mod status;
pub mod threads;
pub mod weights;

pub use logging::start as start_logging;
