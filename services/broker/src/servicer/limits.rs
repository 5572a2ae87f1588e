//! Limits that are put into policies in force, in place of their own.

use plait::pb::control::v1 as pb;
use plait_broker_core::Partition;
use plait_broker_core::policy::MethodPolicy;

use crate::policy;

/// The policies that change, one a route, and the methods that are not known.
pub(super) fn limited(
    partition: &Partition,
    wanted: &[pb::MethodLimits],
) -> (Vec<MethodPolicy>, Vec<String>) {
    let (mut policies, mut unknown) = (Vec::new(), Vec::new());
    for limits in wanted {
        let routes = partition.routes(&limits.method);
        if routes.is_empty() {
            unknown.push(limits.method.clone());
        }
        let of_routes = routes.iter().filter_map(|route| partition.policy(route));
        policies.extend(of_routes.filter_map(|policy| with(policy, limits)));
    }
    (policies, unknown)
}

/// A policy with other limits, in its source too, which is what the log keeps; None: they are its own.
fn with(policy: &MethodPolicy, limits: &pb::MethodLimits) -> Option<MethodPolicy> {
    let source = policy::source(policy).ok()?;
    let changed = pb::MethodPolicy {
        rate_limit: limits.rate_limit,
        rate_period_ms: limits.rate_period_ms,
        rate_burst: limits.rate_burst,
        rate_by_key: limits.rate_by_key,
        concurrency_limit: limits.concurrency_limit,
        concurrency_per_key: limits.concurrency_per_key,
        ..source.clone()
    };
    if changed == source {
        return None;
    }
    policy::compiled(&changed)
}
