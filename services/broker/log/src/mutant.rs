//! Deliberate bugs, for the simulation to find. Without the feature `mutants`, which nothing that is shipped turns on,
//! [`is`] is a constant and the code is as if there were none.

#[cfg(feature = "mutants")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A frame is acknowledged before it is on the disk.
    NoSync = 1,
    /// A snapshot gets its name before its bytes are on the disk.
    SnapshotNotSynced = 2,
    /// A new segment's name is not made durable.
    NoDirSync = 3,
}

#[cfg(feature = "mutants")]
static ON: AtomicU8 = AtomicU8::new(0);

/// Turns one bug on for the whole process, and any other off.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    ON.store(mutant.map_or(0, |mutant| mutant as u8), Ordering::Relaxed);
}

/// Whether a bug is on.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    ON.load(Ordering::Relaxed) == mutant as u8
}

/// Whether a bug is on: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
