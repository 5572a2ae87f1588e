//! How long the log takes to make a group durable.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first bound is 2^6 µs, the last 2^22 µs (4.2 s); then come longer ones.
const FIRST: u32 = 6;
const BUCKETS: usize = 18;

/// Times of groups, counted by size. The log's thread counts, anybody reads: a group's count and its sum may be read
/// one without the other.
#[derive(Debug, Default)]
pub struct SyncTimes {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl SyncTimes {
    /// Counts a group.
    pub(crate) fn count(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bits = u64::BITS - us.saturating_sub(1).leading_zeros();
        let at = (bits.saturating_sub(FIRST) as usize).min(BUCKETS - 1);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How many took at most so many seconds, by ascending bound; without a bound: all.
    pub(super) fn up_to(&self) -> impl Iterator<Item = (Option<f64>, u64)> + '_ {
        let bound =
            |at: usize| (at + 1 < BUCKETS).then(|| (1_u64 << (FIRST as usize + at)) as f64 / 1e6);
        let mut sum = 0;
        self.counts.iter().enumerate().map(move |(at, count)| {
            sum += count.load(Ordering::Relaxed);
            (bound(at), sum)
        })
    }

    /// All of them together, seconds.
    pub(super) fn sum_s(&self) -> f64 {
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::SyncTimes;

    #[test]
    fn a_time_is_counted_at_the_first_bound_that_is_not_below_it() {
        for (us, bound) in [
            (0, Some(64e-6)),
            (64, Some(64e-6)),
            (65, Some(128e-6)),
            (1 << 22, Some(4.194_304)),
            ((1 << 22) + 1, None),
        ] {
            let times = SyncTimes::default();
            times.count(Duration::from_micros(us));
            let first = times.up_to().find(|(_, count)| *count == 1);
            assert_eq!(first.map(|(bound, _)| bound), Some(bound), "{us} µs");
            assert_eq!(times.up_to().last(), Some((None, 1)));
            assert!((times.sum_s() - us as f64 / 1e6).abs() < 1e-9);
        }
    }
}
