//! The guard against starvation: of 16 starts that a class of workers could have used for a task of a lower rank, one
//! is used for it.
//!
//! It counts starts and not time, so that it is exact, needs no clock, and takes nothing while nobody waits. It lives
//! with the process: a restart begins a count anew.

/// Of so many starts in a row of which each could have been a lower rank's, the last one is. A power of two that
/// leaves the higher ranks 94 % of the starts (with 8: 88 %), while the lowest of two ranks still gets 6 %
/// (with 32: 3 %). It is also the length of a turn of methods, so guarding cuts few turns.
pub(crate) const GUARD_EVERY: u32 = 16;

use super::ranks::RANKS;

/// What a class of workers owes to lower ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    /// Starts since a lower rank had its turn that passed over a lower one.
    passed: u32,
    /// All ranks: the one that had such a turn longest ago is first, to begin with the lowest.
    order: [u8; RANKS],
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            passed: 0,
            order: std::array::from_fn(|rank| rank as u8),
        }
    }
}

impl Guard {
    /// How many starts may pass over a lower rank before it is its turn.
    pub(crate) fn left(&self) -> u32 {
        (GUARD_EVERY - 1).saturating_sub(self.passed)
    }

    /// Ranks in the order in which they are to have such a turn.
    pub(crate) fn order(&self) -> [u8; RANKS] {
        self.order
    }

    /// A task began while one of a lower rank could have.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// A task of a lower rank began before one of a higher one.
    pub(crate) fn turn(&mut self, rank: u8) {
        self.passed = 0;
        if let Some(at) = self.order.iter().position(|other| *other == rank) {
            self.order[at..].rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_had_a_turn_is_last() {
        let mut guard = Guard::default();
        assert_eq!(guard.order()[..7], [0, 1, 2, 3, 4, 5, 6]);
        for rank in [0, 5, 0] {
            guard.turn(rank);
        }
        assert_eq!(guard.order()[..5], [1, 2, 3, 4, 6]);
        assert_eq!(guard.order()[RANKS - 2..], [5, 0]);
    }

    #[test]
    fn a_turn_begins_the_count_anew() {
        let mut guard = Guard::default();
        let passes = std::iter::from_fn(|| (guard.left() > 0).then(|| guard.pass())).count();
        assert_eq!(passes, 15);
        guard.turn(3);
        assert_eq!(guard.left(), 15);
    }
}
