//! How the tasks of a service are divided between workers of one version and all others.
//!
//! A task belongs to the version or to the others by a hash, so the same key is always on the same side while the
//! share stays, and a share that grows only adds to what the version has. Nothing of it is kept with a task.

use std::sync::Arc;

/// A share is counted in so many parts.
pub const WHOLE: u32 = 10_000;

/// Holds the splits in force, as the shell encodes them, so that a broker that comes back goes on with them. Written by
/// `Command::SetSplits` alone.
pub const SPLITS_KEY: &str = "scheduler/splits";

/// What decides on which side a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    /// The task itself, and of a child the flow at the root.
    #[default]
    Task,
    /// Its ordering key; without one as `Task`.
    OrderingKey,
    /// Its idempotency key; without one as `Task`.
    IdempotencyKey,
    /// Its limit key; without one as `Task`.
    LimitKey,
}

/// One service's tasks between one version and all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Full name.
    pub service: Arc<str>,
    /// The version that workers announce; not empty. Workers of any other are the others.
    pub version: Arc<str>,
    /// The version's share, of [`WHOLE`].
    pub share: u32,
    /// What is hashed.
    pub sticky: Sticky,
    /// Goes into the hash, so that splits choose differently.
    pub salt: Arc<str>,
    /// Without workers of the others for so long, their tasks go to the version, ms; never with no share.
    pub fallback_ms: u64,
}

impl Split {
    /// Whether a method, by its path, is of the service.
    pub(crate) fn covers(&self, method: &str) -> bool {
        let rest = method
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(&*self.service));
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

/// The part of a split that says on which side a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) share: u32,
    pub(crate) sticky: Sticky,
    salt: u64,
}

impl Cut {
    pub(crate) fn of(split: &Split) -> Self {
        Self {
            share: split.share,
            sticky: split.sticky,
            salt: fnv(FNV_BASIS, split.salt.as_bytes()),
        }
    }

    /// Whether what is hashed falls into the share.
    pub(crate) fn takes(self, key: &[u8]) -> bool {
        place(self.salt, key) < self.share
    }
}

/// Where a key is among the parts of [`WHOLE`]: below the share it is the version's. A task without a key is hashed by
/// its number, 8 bytes, the lowest first.
pub fn place_of(salt: &str, key: &[u8]) -> u32 {
    place(fnv(FNV_BASIS, salt.as_bytes()), key)
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

fn fnv(basis: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    bytes.iter().fold(basis, step)
}

/// FNV-1a, whose upper bits hang on the last bytes too little, and the finalizer of splitmix64 behind it. Not secret:
/// who chooses keys may choose a side.
fn place(salt: u64, key: &[u8]) -> u32 {
    let mut mixed = fnv(salt, key);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (((mixed >> 32) * u64::from(WHOLE)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_even_and_differ_by_salt() {
        let mut below = 0;
        let mut same = 0;
        for number in 0..100_000_u64 {
            let place = place_of("r1", &number.to_le_bytes());
            assert!(place < WHOLE);
            below += u32::from(place < 1_000);
            same += u32::from(place < 1_000 && place_of("r2", &number.to_le_bytes()) < 1_000);
        }
        assert!(
            (9_700..10_300).contains(&below),
            "{below} of 100,000 at 10 %"
        );
        assert!((800..1_200).contains(&same), "{same} of 100,000 at 1 %");
    }

    /// Whoever computes places elsewhere, as the tests of a rollout do, holds to these.
    #[test]
    fn places_never_change() {
        let places = [
            place_of("", b""),
            place_of("r", b"a"),
            place_of("shop.v1.Orders@2", b"customer-17"),
            place_of("shop.v1.Orders@2", &1_u64.to_le_bytes()),
        ];
        assert_eq!(places, [9576, 4684, 2480, 9492]);
    }

    #[test]
    fn a_split_covers_the_methods_of_its_service_only() {
        let split = Split {
            service: "a.B".into(),
            version: "2".into(),
            share: 1,
            sticky: Sticky::Task,
            salt: "".into(),
            fallback_ms: 0,
        };
        for (method, covered) in [
            ("/a.B/C", true),
            ("/a.BB/C", false),
            ("/a.B", false),
            ("a.B/C", false),
        ] {
            assert_eq!(split.covers(method), covered, "{method}");
        }
    }
}
