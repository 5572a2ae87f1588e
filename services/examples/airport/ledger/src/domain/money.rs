//! Money: whole minor units with checked arithmetic and one rounding rule.

use std::iter::Sum;

/// An amount in minor units (US cents).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Minor(i64);

/// An amount left the range of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an amount does not fit 64 bits of minor units")]
pub(crate) struct Overflow;

impl Minor {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn new(cents: i64) -> Self {
        Self(cents)
    }

    pub(crate) const fn cents(self) -> i64 {
        self.0
    }

    pub(crate) fn plus(self, other: Self) -> Result<Self, Overflow> {
        self.0.checked_add(other.0).map(Self).ok_or(Overflow)
    }

    pub(crate) fn times(self, count: i64) -> Result<Self, Overflow> {
        self.0.checked_mul(count).map(Self).ok_or(Overflow)
    }

    /// The share of the amount, rounded half up. See [`permille_half_up`].
    pub(crate) fn permille(self, share: i64) -> Result<Self, Overflow> {
        permille_half_up(self.0, share).map(Self)
    }

    /// The sum of amounts.
    pub(crate) fn sum(amounts: impl IntoIterator<Item = Self>) -> Result<Self, Overflow> {
        amounts.into_iter().try_fold(Self::ZERO, Self::plus)
    }
}

impl Sum<Minor> for Result<Minor, Overflow> {
    fn sum<I: Iterator<Item = Minor>>(amounts: I) -> Self {
        Minor::sum(amounts)
    }
}

/// `value * share / 1000`, rounded half up: the one rounding rule of the ledger. Values and shares
/// are never negative here; a negative one is refused as an overflow rather than rounded another way.
pub(crate) fn permille_half_up(value: i64, share: i64) -> Result<i64, Overflow> {
    if value < 0 || share < 0 {
        return Err(Overflow);
    }
    let scaled = value
        .checked_mul(share)
        .and_then(|v| v.checked_add(500))
        .ok_or(Overflow)?;
    Ok(scaled / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_up() {
        assert_eq!(permille_half_up(1, 499), Ok(0));
        assert_eq!(permille_half_up(1, 500), Ok(1));
        assert_eq!(permille_half_up(3, 500), Ok(2));
        assert_eq!(permille_half_up(149, 823), Ok(123));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(Minor::new(i64::MAX).plus(Minor::new(1)), Err(Overflow));
        assert_eq!(Minor::new(i64::MAX).times(2), Err(Overflow));
        assert_eq!(permille_half_up(i64::MAX, 2), Err(Overflow));
        assert_eq!(permille_half_up(-1, 500), Err(Overflow));
    }
}
