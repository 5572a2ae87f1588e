//! Random choices of a seed.

use plait_broker_log::sim::Random;

/// A seeded source of choices.
#[derive(Debug, Clone)]
pub(crate) struct Dice(Random);

impl Dice {
    /// The source of a seed; `stream` keeps several of one seed apart.
    #[must_use]
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream);
        Self(Random(mixed.number()))
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.number() % end.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a thousand cases.
    pub(crate) fn permille(&mut self, share: u64) -> bool {
        self.below(1_000) < share
    }

    /// One of a slice's indices; None if it is empty.
    pub(crate) fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }

    /// A span around `mean`: most are shorter, some several times as long.
    pub(crate) fn span(&mut self, mean: u64) -> u64 {
        let (a, b) = (self.below(1_000), self.below(1_000));
        // The product of two even draws has a long tail; 4 brings its mean back.
        1 + mean.saturating_mul(4 * a * b) / 1_000_000
    }
}
