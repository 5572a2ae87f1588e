//! The only place that reads a clock or draws a random number.

use std::sync::LazyLock;
use std::time::Instant;

/// Now, on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What milliseconds are counted from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(now);

/// Now in whole milliseconds, the form in which the policies of `retry`, `breaker` and `limiter` take time.
pub(crate) fn now_ms() -> u64 {
    ms_of(now())
}

/// An instant in the milliseconds of `now_ms`; 0 for what was before.
pub(crate) fn ms_of(instant: Instant) -> u64 {
    let since = instant.saturating_duration_since(*ORIGIN);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 16 random bytes.
pub(crate) fn random_bytes() -> [u8; 16] {
    *uuid::Uuid::new_v4().as_bytes()
}

/// A random number of millionths, 0 to 999,999, the form in which the policies of `retry` take randomness.
pub(crate) fn random_ppm() -> u32 {
    let bytes = random_bytes();
    // The last four bytes of a version 4 UUID are random throughout.
    u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) % 1_000_000
}
