//! The only place that reads a clock or draws a random number.

use std::time::Instant;

/// Now, on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
pub(crate) fn now() -> Instant {
    Instant::now()
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
