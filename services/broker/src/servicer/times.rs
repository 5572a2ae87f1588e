//! Times and durations of the wire.

use std::time::Duration;

use plait_broker_core::ids::Millis;

use crate::status::{Refused, invalid};

/// A time; none for 0.
pub(super) fn timestamp(at: Millis) -> Option<prost_types::Timestamp> {
    (at != 0).then(|| prost_types::Timestamp {
        seconds: (at / 1000) as i64,
        nanos: (at % 1000) as i32 * 1_000_000,
    })
}

/// A duration of ours.
pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

/// Milliseconds of a duration that came in; parts of one are rounded up, so that nothing short becomes nothing.
pub(super) fn millis(field: &str, duration: &prost_types::Duration) -> Result<u64, Refused> {
    let duration = Duration::try_from(*duration);
    let duration = duration.map_err(|_| invalid(field, "must not be negative"))?;
    u64::try_from(duration.as_nanos().div_ceil(1_000_000))
        .map_err(|_| invalid(field, "is too long"))
}
