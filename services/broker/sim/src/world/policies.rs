//! The methods of the simulated world.

use super::limits::{self, Limiting};
use crate::history::Method;
use plait::pb::control::v1 as control;
use plait::pb::v1::{LatencyClass, MethodInfo};
use plait_broker_core::policy::MethodPolicy;

pub(crate) const PLAIN: &str = "/sim.v1.S/Plain";
pub(crate) const POISON: &str = "/sim.v1.S/Poison";
pub(crate) const ONCE: &str = "/sim.v1.S/Once";
pub(crate) const FLOW: &str = "/sim.v1.S/Flow";
pub(crate) const METHODS: [&str; 4] = [PLAIN, POISON, ONCE, FLOW];
pub(crate) const QUEUES: [&str; 3] = ["main", "poison", "flows"];

/// The longest wait before a retry, ms.
const BACKOFF_MAX: u64 = 800;

const RETRYABLE: [u32; 6] = [2, 4, 8, 10, 13, 14];

/// Every policy, as the broker keeps it. `brief`: finished tasks are soon forgotten.
pub(crate) fn all(brief: bool, limiting: &Limiting) -> Vec<MethodPolicy> {
    sent(brief, limiting)
        .iter()
        .filter_map(plait_broker::policy::compiled)
        .collect()
}

/// Every policy, as the scheduler sends it.
pub(crate) fn sent(brief: bool, limiting: &Limiting) -> Vec<control::MethodPolicy> {
    let base = |method: &str, queue: &str| control::MethodPolicy {
        info: Some(MethodInfo {
            method: method.to_owned(),
            queue: queue.to_owned(),
            ..MethodInfo::default()
        }),
        deadline_ms: limiting.deadline_ms(40_000),
        attempt_timeout_ms: 2_000,
        max_attempts: 4,
        initial_backoff_ms: 50,
        max_backoff_ms: BACKOFF_MAX,
        multiplier_permille: 2_000,
        retryable_codes: RETRYABLE.iter().fold(0, |set, code| set | 1 << code),
        idempotency_window_ms: 3_000,
        priority: 4,
        retention_ms: if brief { 900 } else { 3_600_000 },
        ..control::MethodPolicy::default()
    };
    let poison = control::MethodPolicy {
        retention_ms: 2_500,
        dead_letter_retention_ms: 3_600_000,
        max_attempts: 3,
        ..base(POISON, QUEUES[1])
    };
    let once = control::MethodPolicy {
        at_most_once: true,
        retention_ms: 4_000,
        idempotency_window_ms: 6_000,
        ..base(ONCE, QUEUES[0])
    };
    let flow = control::MethodPolicy {
        attempt_timeout_ms: 15_000,
        deadline_ms: limiting.deadline_ms(60_000),
        ..base(FLOW, QUEUES[2])
    };
    let plain = limiting.plain(base(PLAIN, QUEUES[0]));
    vec![
        limiting.ranked(plain, LatencyClass::Standard, 3),
        limiting.ranked(limiting.poison(poison), LatencyClass::Background, 1),
        limiting.ranked(once, LatencyClass::Critical, 3),
        limiting.ranked(flow, LatencyClass::Standard, 2),
    ]
}

/// A policy as a history tells it.
pub(crate) fn told(policy: &MethodPolicy) -> Method {
    Method {
        method: policy.method.clone(),
        queue: policy.queue.clone(),
        deadline_ms: policy.deadline_ms,
        attempt_timeout_ms: policy.attempt_timeout_ms,
        max_attempts: policy.max_attempts,
        max_backoff_ms: policy.max_backoff_ms.max(super::worker::PUSHBACK_MAX),
        window_ms: policy.idempotency_window_ms,
        retention_ms: policy.retention_ms,
        dead_letter_ms: policy.dead_letter_retention_ms,
        at_most_once: policy.at_most_once,
        retryable: RETRYABLE.to_vec(),
        limits: limits::told(&policy.limits),
        rank: Some(limits::rank(policy)),
    }
}
