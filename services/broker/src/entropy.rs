//! Randomness for the state machine: one generator, seeded once a process.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// SplitMix64: statistically sound for jitter, and not for secrets.
#[derive(Debug, Clone)]
pub struct Entropy {
    state: u64,
}

impl Entropy {
    /// Seeded by the operating system, through the standard library's hash seed.
    pub fn from_os() -> Self {
        Self::seeded(RandomState::new().hash_one(std::process::id()))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_sequence() {
        // The first outputs of SplitMix64 for seed 1234567.
        let mut entropy = Entropy::seeded(1_234_567);
        assert_eq!(entropy.draw(), 6_457_827_717_110_365_317);
        assert_eq!(entropy.draw(), 3_203_168_211_198_807_973);
    }
}
