//! Ranks: which READY tasks go before which. Of two latency classes the higher one goes first, within one the higher
//! priority.

use crate::policy::Latency;
use crate::state::methods::{Methods, PRIORITY_MAX};

const PRIORITIES: u8 = PRIORITY_MAX + 1;

/// How many there are.
pub(crate) const RANKS: usize = PRIORITIES as usize * Latency::ALL.len();

/// The rank of a method's tasks of a priority.
pub(crate) fn rank(methods: &Methods, method: u32, priority: u8) -> u8 {
    methods.policy(method).latency as u8 * PRIORITIES + priority
}

/// The priority of a rank.
pub(crate) fn priority(rank: u8) -> u8 {
    rank % PRIORITIES
}

/// The latency class of a rank.
pub(crate) fn latency(rank: u8) -> Latency {
    Latency::ALL[usize::from(rank / PRIORITIES)]
}

/// The first rank above those of a latency class.
pub(crate) fn end(latency: Latency) -> u8 {
    (latency as u8 + 1) * PRIORITIES
}

/// A set of ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RankSet(u32);

impl RankSet {
    pub(crate) fn has(self, rank: u8) -> bool {
        self.0 & 1 << rank != 0
    }

    pub(crate) fn add(&mut self, rank: u8) {
        self.0 |= 1 << rank;
    }

    pub(crate) fn remove(&mut self, rank: u8) {
        self.0 &= !(1 << rank);
    }

    /// The highest one below another.
    pub(crate) fn highest(self, below: u8) -> Option<u8> {
        (self.0 & ((1 << below) - 1))
            .checked_ilog2()
            .map(|rank| rank as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_the_highest_below() {
        let mut set = RankSet::default();
        assert_eq!(set.highest(RANKS as u8), None);
        for rank in [0, 7, 29] {
            set.add(rank);
        }
        assert_eq!(set.highest(RANKS as u8), Some(29));
        assert_eq!(set.highest(29), Some(7));
        set.remove(7);
        assert_eq!((set.highest(29), set.highest(0)), (Some(0), None));
        assert!(set.has(29) && !set.has(7));
    }

    #[test]
    fn a_rank_has_a_latency_class_and_a_priority() {
        assert_eq!((latency(0), priority(0)), (Latency::Background, 0));
        assert_eq!((latency(19), priority(19)), (Latency::Standard, 9));
        assert_eq!((latency(24), priority(24)), (Latency::Critical, 4));
    }
}
