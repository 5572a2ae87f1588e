//! The methods of the model's world.

use crate::harness::policy;
use plait_broker_core::policy::{Limits, MethodPolicy, Rate};

pub(super) const PLAIN: &str = "/m.v1.S/Plain";
pub(super) const POISON: &str = "/m.v1.S/Poison";
pub(super) const ONCE: &str = "/m.v1.S/Once";
pub(super) const FLOW: &str = "/m.v1.S/Flow";
pub(super) const METHODS: [&str; 4] = [PLAIN, POISON, ONCE, FLOW];

fn rate(starts: u64, period_ms: u64, burst: u64) -> Rate {
    Rate {
        starts,
        period_ms,
        burst,
    }
}

pub(super) fn all() -> Vec<MethodPolicy> {
    let base = |method| {
        let mut policy = policy(method);
        policy.queue = "model".into();
        policy.deadline_ms = 300_000;
        policy.attempt_timeout_ms = 5_000;
        policy.max_attempts = 4;
        policy.initial_backoff_ms = 50;
        policy.max_backoff_ms = 1_000;
        policy.retention_ms = 20_000;
        policy.idempotency_window_ms = 30_000;
        policy
    };
    let mut poison = base(POISON);
    poison.dead_letter_retention_ms = 60_000;
    poison.queue = "other".into();
    let mut once = base(ONCE);
    once.at_most_once = true;
    let mut flow = base(FLOW);
    flow.attempt_timeout_ms = 60_000;
    flow.queue = "flows".into();
    let mut plain = base(PLAIN);
    plain.limits = Limits {
        rate: Some(rate(20, 1_000, 3)),
        rate_by_key: true,
        running_per_key_max: 2,
        ..Limits::default()
    };
    poison.limits.running_max = 3;
    once.limits.rate = Some(rate(7, 300, 2));
    once.limits.running_per_key_max = 1;
    vec![plain, poison, once, flow]
}
