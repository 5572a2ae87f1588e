//! Policies as the scheduler sends them, turned into what the state machine enforces and back.

use std::sync::Arc;

use plait::pb::control::v1 as control;
use plait::pb::v1::LatencyClass;
use plait_broker_core::policy::{CodeSet, Latency, Limits, MethodPolicy, Rate};
use prost::Message;

/// The state machine's form of a compiled policy. `None` when it names no method.
pub fn compiled(policy: &control::MethodPolicy) -> Option<MethodPolicy> {
    let info = policy.info.as_ref()?;
    if info.method.is_empty() {
        return None;
    }
    Some(MethodPolicy {
        method: Arc::from(info.method.as_str()),
        queue: Arc::from(info.queue.as_str()),
        deadline_ms: policy.deadline_ms,
        attempt_timeout_ms: policy.attempt_timeout_ms,
        max_attempts: policy.max_attempts.max(1),
        initial_backoff_ms: policy.initial_backoff_ms,
        max_backoff_ms: policy.max_backoff_ms,
        multiplier_permille: policy.multiplier_permille,
        retryable: CodeSet(policy.retryable_codes),
        needs_idempotency_key: info.idempotency_key.is_some(),
        needs_ordering_key: info.ordering_key.is_some(),
        idempotency_window_ms: policy.idempotency_window_ms,
        priority: u8::try_from(policy.priority.min(9)).unwrap_or(9),
        latency: latency(policy.latency_class()),
        queue_weight: policy.queue_weight,
        at_most_once: policy.at_most_once,
        retention_ms: policy.retention_ms,
        dead_letter_retention_ms: policy.dead_letter_retention_ms,
        limits: limits(policy),
        source: policy.encode_to_vec().into(),
    })
}

/// Where nothing is said, as in policies from before there were latency classes, it is the standard one.
fn latency(class: LatencyClass) -> Latency {
    match class {
        LatencyClass::Critical => Latency::Critical,
        LatencyClass::Unspecified | LatencyClass::Standard => Latency::Standard,
        LatencyClass::Background => Latency::Background,
    }
}

fn limits(policy: &control::MethodPolicy) -> Limits {
    let rate = (policy.rate_limit > 0).then(|| Rate {
        starts: policy.rate_limit,
        period_ms: policy.rate_period_ms.max(1),
        burst: policy.rate_burst.max(1),
    });
    Limits {
        rate,
        rate_by_key: policy.rate_by_key,
        running_max: policy.concurrency_limit,
        running_per_key_max: policy.concurrency_per_key,
        fair_by_key: policy.fair_by_key,
    }
}

/// The policy as the scheduler sent it.
pub fn source(policy: &MethodPolicy) -> Result<control::MethodPolicy, prost::DecodeError> {
    control::MethodPolicy::decode(policy.source.as_ref())
}
