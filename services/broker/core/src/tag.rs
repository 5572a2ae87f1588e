//! Where somebody who has a share by weight stands: the rounds that it has had, as a fraction with the weight below, so
//! that nothing is ever rounded off and two are compared by multiplying.

use std::cmp::Ordering;

/// So many rounds, and of one more as many starts as `part`, of `weight`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    whole: u64,
    part: u32,
    pub(crate) weight: u32,
}

impl Default for Tag {
    fn default() -> Self {
        Self {
            whole: 0,
            part: 0,
            weight: 1,
        }
    }
}

impl Ord for Tag {
    fn cmp(&self, other: &Self) -> Ordering {
        let parts = |a: &Self, b: &Self| u64::from(a.part) * u64::from(b.weight);
        let by_part = || parts(self, other).cmp(&parts(other, self));
        self.whole.cmp(&other.whole).then_with(by_part)
    }
}

impl PartialOrd for Tag {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Tag {}

impl Tag {
    /// The first tag of a weight that is not before this one.
    pub(crate) fn of_weight(self, weight: u32) -> Self {
        if self.weight == weight {
            return self;
        }
        let part = (u64::from(self.part) * u64::from(weight)).div_ceil(u64::from(self.weight));
        Self {
            whole: self.whole,
            part: 0,
            weight,
        }
        .after(part)
    }

    /// So many starts later.
    pub(crate) fn after(self, starts: u64) -> Self {
        let weight = u64::from(self.weight);
        let part = u64::from(self.part) + starts;
        Self {
            whole: self.whole + part / weight,
            part: (part % weight) as u32,
            weight: self.weight,
        }
    }

    /// How many starts later it is not before another one.
    pub(crate) fn starts_until(self, other: Self) -> u64 {
        let rounds = other.whole.saturating_sub(self.whole);
        let other = Self { whole: 0, ..other }.of_weight(self.weight);
        let parts = other.whole * u64::from(other.weight) + u64::from(other.part);
        (rounds.saturating_mul(u64::from(self.weight)) + parts).saturating_sub(u64::from(self.part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(whole: u64, part: u32, weight: u32) -> Tag {
        Tag {
            whole,
            part,
            weight,
        }
    }

    #[test]
    fn tags_of_different_weights_compare_exactly() {
        assert_eq!(tag(3, 1, 2), tag(3, 500, 1000));
        assert!(tag(3, 333, 1000) < tag(3, 1, 3));
        assert!(tag(3, 1, 3) < tag(3, 334, 1000));
        assert!(tag(2, 6, 7) < tag(3, 0, 1));
    }

    #[test]
    fn a_tag_of_another_weight_is_not_before() {
        assert_eq!(tag(3, 1, 3).of_weight(2), tag(3, 1, 2));
        assert_eq!(tag(3, 2, 3).of_weight(2), tag(4, 0, 2));
        assert_eq!(tag(3, 0, 3).of_weight(1000), tag(3, 0, 1));
    }

    #[test]
    fn the_starts_until_another_tag_are_counted() {
        let starts = |from: Tag, to| {
            let starts = from.starts_until(to);
            assert!(from.after(starts) >= to);
            assert!(starts == 0 || from.after(starts - 1) < to);
            starts
        };
        assert_eq!(starts(tag(3, 0, 4), tag(5, 0, 1)), 8);
        assert_eq!(starts(tag(3, 3, 4), tag(4, 1, 3)), 3);
        assert_eq!(starts(tag(3, 3, 4), tag(3, 3, 4)), 0);
    }
}
