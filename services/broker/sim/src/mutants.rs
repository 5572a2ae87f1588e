//! Deliberate bugs: each is turned on in turn, and the simulation must find it.

#[cfg(feature = "mutants")]
mod hunt;

#[cfg(feature = "mutants")]
pub use hunt::{HEAD, Mutant, Row, all, hunt};

#[cfg(feature = "mutants")]
pub(crate) use hunt::ack_before_sync;

/// Whether the shell tells before it is durable: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn ack_before_sync() -> bool {
    false
}
