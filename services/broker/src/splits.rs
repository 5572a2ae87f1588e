//! Splits as the scheduler sends them, turned into what the state machine enforces, and kept for a restart.

use std::sync::Arc;

use plait::pb::control::v1 as control;
use plait_broker_core::Partition;
use plait_broker_core::ids::Millis;
use plait_broker_core::split::{SPLITS_KEY, Split, Sticky};
use prost::Message;

/// How long the others' tasks wait for a worker of theirs where nothing is said.
const FALLBACK_MS: u64 = 10_000;

/// The state machine's form of splits.
pub fn compiled(request: &control::SetSplitsRequest) -> Vec<Split> {
    request.splits.iter().map(split).collect()
}

fn split(split: &control::Split) -> Split {
    let fallback = split.fallback_after.as_ref();
    let fallback_ms = fallback.map_or(FALLBACK_MS, |after| {
        let whole = u64::try_from(after.seconds).unwrap_or(0);
        let rest = u64::try_from(after.nanos).unwrap_or(0) / 1_000_000;
        whole.saturating_mul(1_000).saturating_add(rest)
    });
    Split {
        service: Arc::from(split.service.as_str()),
        version: Arc::from(split.version.as_str()),
        share: split.share,
        sticky: match split.sticky() {
            control::StickyKey::Unspecified => Sticky::Task,
            control::StickyKey::Ordering => Sticky::OrderingKey,
            control::StickyKey::Idempotency => Sticky::IdempotencyKey,
            control::StickyKey::Limit => Sticky::LimitKey,
        },
        salt: Arc::from(split.salt.as_str()),
        fallback_ms,
    }
}

/// Puts the splits in force that the log tells of, so that a broker without a scheduler goes on with them.
pub fn restore(partition: &mut Partition, now: Millis) {
    let kept = partition.kv_get(SPLITS_KEY);
    let Some((value, _)) = kept.filter(|(value, _)| !value.is_empty()) else {
        return;
    };
    match control::SetSplitsRequest::decode(value) {
        Ok(request) => partition.restore_splits(compiled(&request), now),
        // The scheduler says them again; until then any version takes any task.
        Err(error) => tracing::error!(%error, key = SPLITS_KEY, "splits are not understood"),
    }
}
