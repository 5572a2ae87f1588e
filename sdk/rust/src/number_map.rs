//! Maps keyed by task numbers. They are handed out by the broker and hit once or twice a task, so the standard hasher,
//! which resists keys that an attacker chose, would cost more than the rest of the lookup.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map from task numbers, or leases.
pub(crate) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Fibonacci hashing: the multiplication spreads neighbouring numbers over the high bits, and the rotation brings them
/// down to where the map looks.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    fn hash(key: impl Hash) -> u64 {
        BuildHasherDefault::<NumberHasher>::default().hash_one(key)
    }

    #[test]
    fn neighbours_are_spread() {
        for step in [1, 2, 256, 65_536] {
            let low: HashSet<_> = (0..4_096u64).map(|n| hash(n * step) & 0xffff).collect();
            let high: HashSet<_> = (0..4_096u64).map(|n| hash(n * step) >> 57).collect();
            assert!(
                low.len() > 3_500,
                "{} of 4096 places at steps of {step}",
                low.len()
            );
            assert_eq!(high.len(), 128, "steps of {step}");
        }
    }

    #[test]
    fn both_parts_of_a_pair_count() {
        assert_ne!(hash((1u64, 2u64)), hash((2u64, 1u64)));
        assert_ne!(hash((1u64, 2u64)), hash((1u64, 3u64)));
    }
}
