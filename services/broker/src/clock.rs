//! The only place that reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plait_broker_core::ids::Millis;

/// Time as the state machine wants it: milliseconds since 1970 that never go back. It starts at the
/// later of the wall clock and the last time in the log, and follows the monotonic clock from then
/// on, so a clock that is stepped changes no deadline.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    base: Millis,
}

impl Clock {
    /// A clock that begins now, which is `wall` by the wall clock, and not before `last`.
    pub fn starting_after(wall: Millis, last: Millis) -> Self {
        Self {
            started: monotonic(),
            base: wall.max(last),
        }
    }

    /// The time now.
    pub fn now(&self) -> Millis {
        let passed = monotonic().saturating_duration_since(self.started);
        self.base + u64::try_from(passed.as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// Moves it ahead to `at`, if that is later than now. For tests of users.
    pub(crate) fn skip_to(&mut self, at: Millis) {
        self.base += at.saturating_sub(self.now());
    }

    /// The instant at which [`Clock::now`] reaches `at`; an `at` beyond a year counts as a year.
    pub fn instant_of(&self, at: Millis) -> tokio::time::Instant {
        const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
        let ahead = Duration::from_millis(at.saturating_sub(self.base).min(YEAR_MS));
        tokio::time::Instant::from_std(self.started + ahead)
    }
}

/// A reading of the monotonic clock: the runtime's, which a simulation may lead.
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock: milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock module is the one that reads clocks"
)]
pub fn wall() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_no_earlier_than_the_log() {
        let ahead = wall() + 1_000_000_000;
        assert!(Clock::starting_after(wall(), ahead).now() >= ahead);
        assert!(Clock::starting_after(wall(), 0).now() + 60_000 >= wall());
    }

    #[test]
    fn what_is_skipped_is_over() {
        let mut clock = Clock::starting_after(wall(), 0);
        let week = clock.now() + 7 * 24 * 3_600_000;
        clock.skip_to(week);
        assert!(clock.now() >= week);
        assert!(clock.instant_of(week) <= tokio::time::Instant::from_std(monotonic()));
        let before = clock.base;
        clock.skip_to(week - 1);
        assert_eq!(clock.base, before);
    }

    #[test]
    fn an_instant_lies_where_now_reaches_it() {
        let clock = Clock::starting_after(wall(), 0);
        let ahead = clock.instant_of(clock.base + 5000) - clock.instant_of(clock.base);
        assert_eq!(ahead, Duration::from_secs(5));
        assert_eq!(clock.instant_of(0), clock.instant_of(clock.base));
    }
}
