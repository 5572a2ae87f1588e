//! The guard against starvation: of 16 starts that a class of workers could have used for a task of a lower priority,
//! one is used for it.
//!
//! It counts starts and not time, so that it is exact, needs no clock, and takes nothing while nobody waits. It lives
//! with the process: a restart begins a count anew.

/// Of so many starts in a row of which each could have been a lower priority's, the last one is. A power of two that
/// leaves the higher priorities 94 % of the starts (with 8: 88 %), while the lowest of two priorities still gets 6 %
/// (with 32: 3 %). It is also the length of a turn of methods, so guarding cuts few turns.
pub(crate) const GUARD_EVERY: u32 = 16;

use crate::state::methods::PRIORITY_MAX;

const PRIORITIES: usize = PRIORITY_MAX as usize + 1;

/// What a class of workers owes to lower priorities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    /// Starts since a lower priority had its turn that passed over a lower one.
    passed: u32,
    /// All priorities: the one that had such a turn longest ago is first, to begin with the lowest.
    order: [u8; PRIORITIES],
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            passed: 0,
            order: std::array::from_fn(|priority| priority as u8),
        }
    }
}

impl Guard {
    /// How many starts may pass over a lower priority before it is its turn.
    pub(crate) fn left(&self) -> u32 {
        (GUARD_EVERY - 1).saturating_sub(self.passed)
    }

    /// Priorities in the order in which they are to have such a turn.
    pub(crate) fn order(&self) -> [u8; PRIORITIES] {
        self.order
    }

    /// A task began while one of a lower priority could have.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// A task of a lower priority began before one of a higher one.
    pub(crate) fn turn(&mut self, priority: u8) {
        self.passed = 0;
        if let Some(at) = self.order.iter().position(|other| *other == priority) {
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
        assert_eq!(guard.order(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for priority in [0, 5, 0] {
            guard.turn(priority);
        }
        assert_eq!(guard.order(), [1, 2, 3, 4, 6, 7, 8, 9, 5, 0]);
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
