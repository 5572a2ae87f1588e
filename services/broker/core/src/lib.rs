//! The pure state machine of one partition: commands in, records and effects out.
//!
//! It reads no clock, no randomness, no socket and no file; time and entropy are arguments. It knows no
//! wire types and never reads a payload. The shell makes the records durable and only then carries
//! out the effects.

pub mod command;
pub mod effect;
pub mod ids;
pub mod image;
pub mod policy;
pub mod record;

mod decide;
mod live;
mod partition;
mod state;

pub use partition::{Config, Figures, MethodFigures, Partition, QueueFigures, Step, WorkerFigures};
