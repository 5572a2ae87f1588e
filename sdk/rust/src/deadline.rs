//! What is left of a deadline, and how it travels.
//!
//! Inside a process a deadline is an instant on the monotonic clock; between processes it is the remaining time, in
//! the header `grpc-timeout`. No hop ever extends it. Pure: the remaining time is an argument of what is computed here.

use crate::{clock, flow};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// What `limit` set, or the deadline of the direct call that is being served.
    static LIMIT: Instant;
}

/// What is left for the code that runs; `None` where there is no deadline. Inside a handler this is what is left of its
/// attempt, or of the direct call that it serves, or of a [`limit`] inside it.
#[must_use]
pub fn remaining() -> Option<Duration> {
    let attempt = flow::attempt().map(|attempt| attempt.deadline());
    let earliest = limit_at().into_iter().chain(attempt).min()?;
    Some(earliest.saturating_duration_since(clock::now()))
}

/// Bounds the calls made inside a future to so much time, as a timeout on each of them would. An earlier deadline
/// stays. It interrupts nothing else. What the future spawns loses it.
pub fn limit<F: Future>(left: Duration, future: F) -> impl Future<Output = F::Output> {
    let until = clock::now().checked_add(left);
    let until = until.into_iter().chain(limit_at()).min();
    async move {
        match until {
            Some(until) => LIMIT.scope(until, future).await,
            None => future.await,
        }
    }
}

/// What bounds every call of the code that runs. A handler's own attempt is no bound of its children: a flow that is
/// run again finds them where they were, and the broker keeps them within the parent's remainder.
pub(crate) fn limit_at() -> Option<Instant> {
    LIMIT.try_with(|limit| *limit).ok()
}

/// How a call's timeout is made from what came in. Every number is in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What counts as left when no deadline came in. Default 30,000.
    pub default_ms: i64,
    /// No call waits longer. Default 300,000.
    pub max_ms: i64,
    /// Kept back for each hop. Default 5.
    pub hop_margin_ms: i64,
    /// With less than this nothing is sent. Default 1.
    pub min_useful_ms: i64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_ms: 30_000,
            max_ms: 300_000,
            hop_margin_ms: 5,
            min_useful_ms: 1,
        }
    }
}

impl Policy {
    /// The timeout of an outgoing call in milliseconds: `min(min(left, max) - margin, wanted)`. `None`: less than the
    /// useful minimum is left; answer DEADLINE_EXCEEDED and send nothing.
    #[must_use]
    pub fn timeout_ms(&self, inbound_left_ms: Option<i64>, want_ms: Option<i64>) -> Option<i64> {
        let left = inbound_left_ms.unwrap_or(self.default_ms).min(self.max_ms);
        let timeout = left
            .saturating_sub(self.hop_margin_ms)
            .min(want_ms.unwrap_or(i64::MAX));
        (timeout >= self.min_useful_ms).then_some(timeout)
    }
}

/// The text of a `grpc-timeout` header: at most eight digits and a unit. Never longer than `left`.
#[must_use]
pub fn encode_timeout(left: Duration) -> String {
    const DIGITS_MAX: u128 = 99_999_999;
    for (unit, value) in [
        ('n', left.as_nanos()),
        ('u', left.as_micros()),
        ('m', left.as_millis()),
    ] {
        if value <= DIGITS_MAX {
            return format!("{value}{unit}");
        }
    }
    let seconds = left.as_secs();
    match seconds {
        0..=99_999_999 => format!("{seconds}S"),
        _ => format!("{}H", (seconds / 3_600).min(99_999_999)),
    }
}

/// Reads a `grpc-timeout` header. `None` for text that is none.
#[must_use]
pub fn decode_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_read() {
        for (text, want) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("00000006n", Duration::from_nanos(6)),
        ] {
            assert_eq!(decode_timeout(text), Some(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_timeout_is_refused() {
        for text in [
            "",
            "m",
            "1",
            "1x",
            "-1m",
            "+1m",
            "1.5S",
            "123456789m",
            " 1m",
            "1é",
        ] {
            assert_eq!(decode_timeout(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_limit_inside_a_limit_only_shortens_it() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(remaining(), None);
        for (outer, inner) in [(short, long), (long, short)] {
            let left = limit(outer, async { limit(inner, async { remaining() }).await });
            assert!(left.await.is_some_and(|left| left <= short));
        }
        assert_eq!(remaining(), None);
    }

    proptest! {
        #[test]
        fn the_header_never_extends_a_deadline(nanos in any::<u64>(), factor in 1u32..1_000_000) {
            let left = Duration::from_nanos(nanos).saturating_mul(factor);
            let read = decode_timeout(&encode_timeout(left)).expect("own text");
            prop_assert!(read <= left);
            prop_assert!(left - read <= left / 10_000 + Duration::from_nanos(1) || left.as_secs() > 99_999_999 * 3_600);
        }
    }
}
