//! Weights of keys as the scheduler sends them, turned into what the state machine enforces, and kept for a restart.

use std::sync::Arc;

use plait::pb::control::v1 as control;
use plait_broker_core::Partition;
use plait_broker_core::ids::Millis;
use plait_broker_core::weight::{WEIGHTS_PREFIX, Weights};
use prost::Message;

/// Entries that are read at once.
const PAGE: usize = 100;

/// The state machine's form of the weights of one method.
pub fn compiled(request: &control::SetWeightsRequest) -> Weights {
    let weights = request.weights.iter();
    Weights::new(weights.map(|each| (Arc::from(each.key.as_str()), each.weight)))
}

/// Puts the weights in force that the log tells of, so that a broker without a scheduler goes on with them.
pub fn restore(partition: &mut Partition, now: Millis) {
    let mut after: Arc<str> = Arc::from("");
    loop {
        let page = partition.kv_list(WEIGHTS_PREFIX, &after, PAGE);
        let Some((last, ..)) = page.last() else {
            return;
        };
        after = Arc::clone(last);
        for (key, value, _) in page {
            match control::SetWeightsRequest::decode(value) {
                Ok(request) => {
                    let method = Arc::from(request.method.as_str());
                    partition.restore_weights(method, compiled(&request), now);
                }
                // The scheduler says them again; until then its keys have one weight.
                Err(error) => tracing::error!(%error, %key, "weights are not understood"),
            }
        }
    }
}
