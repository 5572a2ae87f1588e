//! The generic cell rate algorithm in whole numbers.
//!
//! Time is counted in units of 1/`starts` ms, so that both a millisecond (`starts` units) and the distance of two
//! starts (`period_ms` units) are whole: every rate from 10^9 in 1 ms to 1 in a year is exact. The clock tells
//! milliseconds only; a start at the reading `now` may have been due anywhere after `now - 1`, and is counted from
//! there. So a rate that is no whole number of milliseconds is reached exactly, and in any n readings in a row no
//! more than `burst + n * starts / period_ms` attempts begin.

use crate::ids::Millis;

/// How fast attempts may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Starts in a period, at least 1.
    pub starts: u64,
    /// The period, ms, at least 1.
    pub period_ms: u64,
    /// Starts at once after a rest, at least 1.
    pub burst: u64,
}

/// When a further start would be on time had there been no burst: the theoretical arrival time, in units of the rate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Arrival(u128);

impl Rate {
    /// The rate with numbers that can be computed with.
    pub(crate) fn sound(self) -> Self {
        // A year of 10^9 starts each is what contracts may ask for; this is as much as 128 bits hold safely.
        const MOST: u64 = 1 << 40;
        Self {
            starts: self.starts.clamp(1, MOST),
            period_ms: self.period_ms.clamp(1, MOST),
            burst: self.burst.clamp(1, MOST),
        }
    }

    /// The instant from which a start that happens at a reading of the clock is counted.
    fn earliest(self, now: Millis) -> u128 {
        let starts = u128::from(self.starts);
        (u128::from(now) * starts).saturating_sub(starts - 1)
    }

    /// The last arrival time with which an attempt may begin.
    fn latest(self, now: Millis) -> u128 {
        let tolerance = u128::from(self.burst - 1) * u128::from(self.period_ms);
        u128::from(now) * u128::from(self.starts) + tolerance
    }

    /// Whether an attempt may begin now.
    pub(crate) fn may(self, arrival: Arrival, now: Millis) -> bool {
        arrival.0 <= self.latest(now)
    }

    /// How many attempts may begin now.
    pub(crate) fn permits(self, arrival: Arrival, now: Millis) -> u64 {
        let from = arrival.0.max(self.earliest(now));
        match self.latest(now).checked_sub(from) {
            Some(room) => u64::try_from(room / u128::from(self.period_ms) + 1).unwrap_or(u64::MAX),
            None => 0,
        }
    }

    /// An attempt begins.
    pub(crate) fn start(self, arrival: Arrival, now: Millis) -> Arrival {
        Arrival(arrival.0.max(self.earliest(now)) + u128::from(self.period_ms))
    }

    /// When the next attempt may begin, if none begins before.
    pub(crate) fn next(self, arrival: Arrival) -> Millis {
        let tolerance = u128::from(self.burst - 1) * u128::from(self.period_ms);
        let at = arrival.0.saturating_sub(tolerance);
        Millis::try_from(at.div_ceil(u128::from(self.starts))).unwrap_or(Millis::MAX)
    }

    /// Whether a full burst may begin: nothing needs to be remembered.
    pub(crate) fn is_rested(self, arrival: Arrival, now: Millis) -> bool {
        arrival.0 <= self.earliest(now)
    }

    /// When it will be.
    pub(crate) fn rested(self, arrival: Arrival) -> Millis {
        let starts = u128::from(self.starts);
        Millis::try_from((arrival.0 + starts - 1).div_ceil(starts)).unwrap_or(Millis::MAX)
    }

    /// What an arrival time of this rate comes to under another one: as many starts of the burst are used up.
    pub(crate) fn convert(self, arrival: Arrival, other: Self, now: Millis) -> Arrival {
        let debt = arrival.0.saturating_sub(self.earliest(now));
        let used = debt.div_ceil(u128::from(self.period_ms));
        let used = used.min(u128::from(other.burst));
        Arrival(other.earliest(now) + used * u128::from(other.period_ms))
    }

    /// Whole milliseconds of an arrival time, and the units over.
    pub(crate) fn parts(self, arrival: Arrival) -> (Millis, u64) {
        let starts = u128::from(self.starts);
        let whole = Millis::try_from(arrival.0 / starts).unwrap_or(Millis::MAX);
        (whole, (arrival.0 % starts) as u64)
    }

    /// The arrival time of such parts.
    pub(crate) fn arrival(self, (ms, units): (Millis, u64)) -> Arrival {
        // Within what the clock and the longest burst can come to, whoever wrote the parts.
        let ms = u128::from(ms.min(1 << 56));
        Arrival(ms * u128::from(self.starts) + u128::from(units.min(self.starts - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Millis = 1_700_000_000_000;

    fn rate(starts: u64, period_ms: u64, burst: u64) -> Rate {
        Rate {
            starts,
            period_ms,
            burst,
        }
    }

    /// A bucket of tokens, filled with each reading of the clock: made without a look at arrival times.
    struct Bucket {
        rate: Rate,
        level: u128,
        at: Millis,
    }

    impl Bucket {
        fn new(rate: Rate, at: Millis) -> Self {
            let level = Self::full(rate);
            Self { rate, level, at }
        }

        fn full(rate: Rate) -> u128 {
            u128::from(rate.burst) * u128::from(rate.period_ms) + u128::from(rate.starts) - 1
        }

        fn start(&mut self, now: Millis) -> bool {
            let filled = u128::from(now - self.at) * u128::from(self.rate.starts);
            self.level = (self.level + filled).min(Self::full(self.rate));
            self.at = now;
            let cost = u128::from(self.rate.period_ms);
            let may = self.level >= cost;
            self.level -= if may { cost } else { 0 };
            may
        }
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let starts = prop_oneof![1..50u64, Just(1_000_000_000)];
        let period = prop_oneof![1..200u64, Just(86_400_000), Just(31_536_000_000)];
        let burst = prop_oneof![1..20u64, Just(1_000_000_000)];
        (starts, period, burst).prop_map(|(starts, period, burst)| rate(starts, period, burst))
    }

    proptest! {
        #[test]
        fn it_lets_pass_what_a_bucket_of_tokens_does(
            rate in rates(),
            pauses in proptest::collection::vec(prop_oneof![Just(0u64), 1..500u64], 1..300),
        ) {
            let mut bucket = Bucket::new(rate, START);
            let (mut arrival, mut now) = (Arrival::default(), START);
            for pause in pauses {
                now += pause;
                let may = rate.permits(arrival, now) > 0;
                prop_assert_eq!(may, rate.may(arrival, now));
                prop_assert_eq!(may, bucket.start(now));
                if may {
                    arrival = rate.start(arrival, now);
                    prop_assert_eq!(rate.permits(arrival, now) > 0, rate.next(arrival) <= now);
                }
            }
        }

        #[test]
        fn no_window_holds_more_than_a_burst_and_the_rate(
            rate in (1..20u64, 1..50u64, 1..6u64).prop_map(|(s, p, b)| rate(s, p, b)),
            pauses in proptest::collection::vec(0..40u64, 1..120),
        ) {
            let (mut arrival, mut now, mut begun) = (Arrival::default(), START, Vec::new());
            for pause in pauses {
                now += pause;
                for _ in 0..rate.permits(arrival, now).min(100) {
                    arrival = rate.start(arrival, now);
                    begun.push(now);
                }
            }
            for (first, from) in begun.iter().enumerate() {
                for (last, to) in begun.iter().enumerate().skip(first) {
                    let readings = to - from + 1;
                    let most = rate.burst * rate.period_ms + readings * rate.starts;
                    prop_assert!((last - first + 1) as u64 * rate.period_ms <= most);
                }
            }
        }

        #[test]
        fn what_always_wants_to_start_reaches_the_rate_exactly(
            rate in (1..2_000u64, 1..50u64, 1..10u64).prop_map(|(s, p, b)| rate(s, p, b)),
            periods in 1..20u64,
        ) {
            let (mut arrival, mut begun) = (Arrival::default(), 0);
            let end = START + periods * rate.period_ms;
            for now in START..end {
                while rate.permits(arrival, now) > 0 {
                    arrival = rate.start(arrival, now);
                    begun += 1;
                }
            }
            // The burst, then the rate over all readings but what the first one already had.
            let least = rate.burst - 1 + periods * rate.starts;
            prop_assert!((least..=least + 1).contains(&begun), "{} of {}", begun, least);
        }

        #[test]
        fn parts_and_permits_agree(rate in rates(), used in 0..40u64) {
            let mut arrival = Arrival::default();
            for _ in 0..used.min(rate.burst) {
                let before = rate.permits(arrival, START);
                arrival = rate.start(arrival, START);
                prop_assert_eq!(rate.permits(arrival, START), before - 1);
            }
            prop_assert_eq!(rate.arrival(rate.parts(arrival)), arrival);
            let rested = rate.rested(arrival).max(START);
            prop_assert!(rate.is_rested(arrival, rested));
            prop_assert!(rested == START || !rate.is_rested(arrival, rested - 1));
            let full = rate.permits(Arrival::default(), rested);
            prop_assert_eq!(rate.permits(arrival, rested), full);
        }
    }

    #[test]
    fn one_a_day_is_one_a_day() {
        let daily = rate(1, 86_400_000, 1);
        let arrival = daily.start(Arrival::default(), START);
        assert_eq!(daily.permits(arrival, START + 86_399_999), 0);
        assert_eq!(daily.permits(arrival, START + 86_400_000), 1);
        assert_eq!(daily.next(arrival), START + 86_400_000);
    }

    #[test]
    fn a_thousand_million_a_second_is_a_million_a_millisecond() {
        let fast = rate(1_000_000_000, 1_000, 1);
        let mut arrival = Arrival::default();
        for _ in 0..fast.permits(arrival, START) {
            arrival = fast.start(arrival, START);
        }
        assert_eq!(fast.permits(arrival, START), 0);
        assert_eq!(fast.permits(arrival, START + 1), 1_000_000);
    }

    #[test]
    fn a_changed_rate_remembers_what_began() {
        let (slow, fast) = (rate(1, 1_000, 1), rate(100, 1_000, 10));
        let spent = slow.start(Arrival::default(), START);
        let eased = slow.convert(spent, fast, START);
        assert_eq!(fast.permits(eased, START), 9);
        let mut busy = Arrival::default();
        for _ in 0..10 {
            busy = fast.start(busy, START);
        }
        let tightened = fast.convert(busy, slow, START);
        assert_eq!(slow.permits(tightened, START), 0);
        assert_eq!(slow.next(tightened), START + 1_000);
        let rested = fast.convert(Arrival::default(), slow, START);
        assert_eq!(slow.permits(rested, START), 1);
    }
}
