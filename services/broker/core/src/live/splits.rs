//! Splits in force: who of a route's workers is there, and how attempts went on each side. All of it ends with the
//! process; what was decided comes back from its key.

use crate::ids::Millis;
use crate::mutant::{self, Mutant};
use crate::split::{Split, WHOLE};
use std::collections::BTreeMap;

/// One of the two sides of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Workers of any other version.
    Others,
    /// Workers of the version that has the share.
    Version,
}

/// Spans of attempts are counted by quarters of an octave: a bound is some 19 % above the one before.
pub(crate) const SPANS: usize = 96;

/// How attempts ended on one side.
#[derive(Clone, Debug)]
pub(crate) struct SideTally {
    pub(crate) outcomes: [u64; 17],
    pub(crate) lost: u64,
    pub(crate) busy_ms: u64,
    pub(crate) spans: [u64; SPANS],
}

/// A route whose tasks are divided.
#[derive(Debug)]
pub(crate) struct Divided {
    /// Index of its split.
    pub(crate) split: usize,
    /// Workers that take tasks of it, by side.
    pub(crate) served: [u32; 2],
    /// When the last of the others went, or the split began without one.
    pub(crate) left_at: Millis,
    /// The others have been away for longer than the split waits for them.
    pub(crate) alone: bool,
    /// One of the others has served it.
    pub(crate) known: bool,
    pub(crate) tallies: [SideTally; 2],
}

/// All splits.
#[derive(Debug, Default)]
pub(crate) struct Splits {
    pub(crate) list: Vec<Split>,
    /// By route.
    pub(crate) routes: BTreeMap<u32, Divided>,
}

impl Default for SideTally {
    fn default() -> Self {
        Self {
            outcomes: [0; 17],
            lost: 0,
            busy_ms: 0,
            spans: [0; SPANS],
        }
    }
}

impl SideTally {
    pub(crate) fn count(&mut self, (code, lost): (u32, bool), busy_ms: u64) {
        if lost {
            self.lost += 1;
            return;
        }
        self.outcomes[(code as usize).min(16)] += 1;
        self.busy_ms += busy_ms;
        self.spans[span(busy_ms)] += 1;
    }
}

/// In which span a time falls: four of them double it.
pub(crate) fn span(ms: Millis) -> usize {
    if ms < 4 {
        return ms as usize;
    }
    let octave = ms.ilog2();
    let quarter = (ms >> (octave - 2)) & 3;
    ((octave as usize - 1) * 4 + quarter as usize).min(SPANS - 1)
}

impl Divided {
    pub(crate) fn new(split: usize, now: Millis) -> Self {
        Self {
            split,
            served: [0; 2],
            left_at: now,
            alone: false,
            known: false,
            tallies: Default::default(),
        }
    }

    /// A worker begins or ends to take tasks of the route. Whether a side came or went with it.
    pub(crate) fn change(&mut self, side: Side, more: bool, now: Millis) -> bool {
        let served = &mut self.served[side as usize];
        let before = *served;
        *served = if more {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        let after = *served;
        if side == Side::Others {
            if more {
                (self.alone, self.known) = (false, true);
            } else if after == 0 {
                self.left_at = now;
            }
        }
        (before == 0) != (after == 0)
    }

    /// Which of the two lists of the route a worker serves: that of the others, that of the version.
    ///
    /// Nobody's tasks strand: those of a version that is not there are for the others at once, and those of others that
    /// are not there for the version after a while. But what has no share gets nothing because others fail to come,
    /// unless none of them ever knew the route: then its tasks are such that the version alone can decode.
    fn lists(&self, share: u32, side: Side) -> [bool; 2] {
        if mutant::is(Mutant::SplitIgnored) {
            return [true, true];
        }
        let away = self.served[Side::Version as usize] == 0 && !mutant::is(Mutant::SplitStrands);
        let known = self.known && !mutant::is(Mutant::RolledBackServes);
        match (share, side) {
            (0, Side::Others) | (WHOLE, Side::Version) => [true, true],
            (0, Side::Version) => [self.alone && !known; 2],
            (WHOLE, Side::Others) => [away; 2],
            (_, Side::Others) => [true, away],
            (_, Side::Version) => [self.alone, true],
        }
    }
}

impl Splits {
    /// The side of a worker of this version.
    pub(crate) fn side(&self, divided: &Divided, version: &str) -> Side {
        if *self.list[divided.split].version == *version {
            Side::Version
        } else {
            Side::Others
        }
    }

    /// Which of the two lists of a route a worker of this version serves.
    pub(crate) fn lists(&self, route: u32, version: &str) -> [bool; 2] {
        self.routes.get(&route).map_or([true, false], |divided| {
            let share = self.list[divided.split].share.min(WHOLE);
            divided.lists(share, self.side(divided, version))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_spans_double_a_time() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 7, 8].map(span),
            [0, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            [9, 10, 11, 12, 16, 20, 32].map(span),
            [8, 9, 9, 10, 12, 13, 16]
        );
        assert_eq!(span(u64::MAX), SPANS - 1);
        assert!((1..100_000).all(|ms| span(ms) <= span(ms + 1)));
        assert!((1..100_000).all(|ms| span(2 * ms) <= span(ms) + 4));
    }
}
