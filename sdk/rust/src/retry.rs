//! When a failed call may be tried again, and after how long.
//!
//! Pure state machines of SEMANTICS: they read no clock, draw no random number and have no timer. Tasks are retried
//! by the broker; these are for calls, and for the SDK's own connections. Every number is whole:
//! milliseconds, permille,
//! thousandths of a token. The same vectors pin them in every language.

/// How long to wait before an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the wait before the second attempt, in milliseconds. Default 100.
    pub initial_ms: u64,
    /// The bound of every wait, in milliseconds. Default 5,000.
    pub max_ms: u64,
    /// Growth of the bound from one attempt to the next, in permille. Default 2,000.
    pub multiplier_permille: u64,
    /// Lower end of the jitter band, in permille of the bound. Default 0.
    pub jitter_low_permille: u64,
    /// Upper end of the jitter band, in permille of the bound. Default 1,000: full jitter.
    pub jitter_high_permille: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial_ms: 100,
            max_ms: 5_000,
            multiplier_permille: 2_000,
            jitter_low_permille: 0,
            jitter_high_permille: 1_000,
        }
    }
}

impl Backoff {
    /// The wait before `attempt` in milliseconds; 2 is the first retry, and a smaller number counts as 2.
    /// `rnd_ppm` is a
    /// random number from 0 to 999,999.
    #[must_use]
    pub fn delay_ms(&self, attempt: u32, rnd_ppm: u32) -> u64 {
        let (low, high) = (self.jitter_low_permille, self.jitter_high_permille);
        let band = high.saturating_sub(low);
        let factor_ppm = low * 1_000 + u64::from(rnd_ppm) * band / 1_000;
        let retries_before = attempt.saturating_sub(2);
        let bound = grow(
            self.initial_ms,
            self.multiplier_permille,
            retries_before,
            self.max_ms,
        );
        scale(bound, factor_ppm, 1_000_000)
    }

    /// What a server's pushback says, in milliseconds: it is obeyed exactly, without jitter. `None` for a negative one,
    /// which means that there is to be no retry.
    #[must_use]
    pub fn pushback(pushback_ms: i64) -> Option<u64> {
        u64::try_from(pushback_ms).ok()
    }
}

/// Bounds the retries against one target: gRPC A6. Starts full. A retry is allowed while more than half of the tokens
/// are left; asking never blocks.
#[derive(Debug, Clone)]
pub struct Budget {
    tokens_milli: u64,
    cap_milli: u64,
    ratio_permille: u64,
}

impl Default for Budget {
    /// 10 tokens, 100 permille.
    fn default() -> Self {
        Self::new(10, 100)
    }
}

impl Budget {
    /// A full bucket of `max_tokens`, to which each success gives `token_ratio_permille` thousandths of a token.
    #[must_use]
    pub fn new(max_tokens: u64, token_ratio_permille: u64) -> Self {
        let cap_milli = max_tokens.saturating_mul(1_000);
        Self {
            tokens_milli: cap_milli,
            cap_milli,
            ratio_permille: token_ratio_permille,
        }
    }

    /// Whether a retry, or a hedge, may be sent now.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.tokens_milli > self.cap_milli / 2
    }

    /// Counts a failure with a retryable code, or a pushback that says stop.
    pub fn failure(&mut self) {
        self.tokens_milli = self.tokens_milli.saturating_sub(1_000);
    }

    /// Counts a success.
    pub fn success(&mut self) {
        self.tokens_milli = (self.tokens_milli + self.ratio_permille).min(self.cap_milli);
    }

    /// What is left, in thousandths of a token.
    #[must_use]
    pub fn tokens_milli(&self) -> u64 {
        self.tokens_milli
    }
}

/// `start` times the factor, `steps` times, floored and capped at each step.
pub(crate) fn grow(start: u64, factor_permille: u64, steps: u32, cap: u64) -> u64 {
    let mut value = start.min(cap);
    for _ in 0..steps {
        let next = scale(value, factor_permille, 1_000).min(cap);
        if value >= cap || next == value {
            break;
        }
        value = next;
    }
    value
}

/// `value * factor / unit`, floored, without overflow on the way.
fn scale(value: u64, factor: u64, unit: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(factor) / u128::from(unit);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_that_overflows_ends_at_the_cap() {
        let backoff = Backoff {
            max_ms: u64::MAX,
            ..Backoff::default()
        };
        assert_eq!(backoff.delay_ms(u32::MAX, 0), 0);
        assert_eq!(grow(1, 10_000, u32::MAX, u64::MAX), u64::MAX);
        assert_eq!(grow(1, 1_000, u32::MAX, 9), 1);
    }

    #[test]
    fn attempts_before_the_first_retry_count_as_it() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay_ms(0, 999_999), backoff.delay_ms(2, 999_999));
    }
}
