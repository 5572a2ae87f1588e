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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::Value;

    fn policy(initial_ms: u64, max_ms: u64, multiplier_permille: u32) -> MethodPolicy {
        MethodPolicy {
            method: "/a.B/C".into(),
            queue: "q".into(),
            deadline_ms: 0,
            attempt_timeout_ms: 0,
            max_attempts: 1,
            initial_backoff_ms: initial_ms,
            max_backoff_ms: max_ms,
            multiplier_permille,
            retryable: crate::policy::CodeSet(0),
            needs_idempotency_key: false,
            needs_ordering_key: false,
            idempotency_window_ms: 0,
            priority: 0,
            latency: crate::policy::Latency::default(),
            queue_weight: 0,
            at_most_once: false,
            retention_ms: 0,
            dead_letter_retention_ms: 0,
            limits: crate::policy::Limits::default(),
            source: Bytes::new(),
        }
    }

    fn number(value: &Value, field: &str) -> u64 {
        value[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field} in {value}"))
    }

    /// What a step of a vector asks for; -1 stands for "do not retry".
    fn answer(config: &Value, input: &Value) -> i64 {
        if let Some(pushback) = input["pushback_ms"].as_i64() {
            let Ok(pushback) = u64::try_from(pushback) else {
                return -1;
            };
            let any = policy(1, 1, 1000);
            return i64::try_from(delay(&any, 9, Some(pushback), 0).0).expect("small");
        }
        let policy = policy(
            number(config, "initial_ms"),
            number(config, "max_ms"),
            u32::try_from(number(config, "multiplier_permille")).expect("small"),
        );
        let step = u32::try_from(number(input, "attempt") - 2).expect("small");
        let band = (
            number(config, "jitter_low_permille"),
            number(config, "jitter_high_permille"),
        );
        let delay = jitter(bound(&policy, step), number(input, "rnd_ppm"), band);
        i64::try_from(delay).expect("small")
    }

    #[test]
    fn backoff_agrees_with_the_shared_vectors() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../interop/vectors/resilience.json"
        );
        let text = std::fs::read_to_string(path).expect("the shared vectors are there");
        let document: Value = serde_json::from_str(&text).expect("they are JSON");
        assert_eq!(document["schema"], 1);
        let vectors = document["vectors"].as_array().expect("a list");
        let mut steps = 0;
        for vector in vectors.iter().filter(|vector| vector["kind"] == "backoff") {
            for step in vector["steps"].as_array().expect("a list") {
                let wanted = step["out"]["delay_ms"].as_i64().expect("a number");
                assert_eq!(answer(&vector["config"], &step["in"]), wanted, "{step}");
                steps += 1;
            }
        }
        assert!(steps >= 16, "only {steps} steps");
    }

    #[test]
    fn the_bound_is_floored_at_every_step_and_never_overflows() {
        assert_eq!(bound(&policy(3, 1000, 1500), 3), 9, "3, 4, 6, 9 and not 10");
        assert_eq!(bound(&policy(100, 5000, 2000), 40), 5000);
        assert_eq!(
            bound(&policy(u64::MAX / 2, u64::MAX, 10_000), u32::MAX),
            u64::MAX
        );
        assert_eq!(bound(&policy(500, 100, 2000), 0), 100);
        assert_eq!(bound(&policy(0, 100, 2000), u32::MAX), 0);
    }

    #[test]
    fn a_pushback_starts_the_backoff_anew() {
        let policy = policy(100, 5000, 2000);
        assert_eq!(delay(&policy, 7, Some(250), 1), (250, 0));
        assert_eq!(delay(&policy, 7, None, 0), (0, 8));
    }
}
