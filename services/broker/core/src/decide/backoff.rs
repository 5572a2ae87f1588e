//! Whether and when a failed attempt is repeated.

use crate::ids::Millis;
use crate::policy::MethodPolicy;

/// The bound of the wait before a retry: `initial * multiplier^step`, cut at `max` and floored at every step.
pub(crate) fn bound(policy: &MethodPolicy, step: u32) -> Millis {
    let mut bound = policy.initial_backoff_ms.min(policy.max_backoff_ms);
    for _ in 0..step {
        let grown = u128::from(bound) * u128::from(policy.multiplier_permille) / 1000;
        let grown = u64::try_from(grown)
            .unwrap_or(u64::MAX)
            .min(policy.max_backoff_ms);
        if grown == bound {
            break;
        }
        bound = grown;
    }
    bound
}

/// A random share of a bound; `random_ppm` is in millionths, below a million. `jitter_permille` is the band.
pub(crate) fn jitter(bound: Millis, random_ppm: u64, jitter_permille: (u64, u64)) -> Millis {
    let (low, high) = jitter_permille;
    let factor = low * 1000 + random_ppm * (high - low) / 1000;
    let share = u128::from(bound) * u128::from(factor) / 1_000_000;
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Tasks spread their retries over the whole bound.
const FULL_JITTER: (u64, u64) = (0, 1000);

/// How long to wait, and the step of the backoff after that. A pushback is obeyed exactly and starts the
/// backoff anew.
pub(crate) fn delay(
    policy: &MethodPolicy,
    step: u32,
    pushback: Option<Millis>,
    random: u64,
) -> (Millis, u32) {
    match pushback {
        Some(delay) => (delay, 0),
        None => (
            jitter(bound(policy, step), random % 1_000_000, FULL_JITTER),
            step.saturating_add(1),
        ),
    }
}
