//! The routes of methods whose contract has several versions: a task goes by the route of the contract it was submitted
//! under, and a worker serves the routes that its contract can take.

use std::collections::BTreeSet;
use std::sync::Arc;

use plait::pb::v1::MethodInfo;
use plait_broker_core::Partition;
use plait_broker_core::policy::{MethodPolicy, method_of};

use super::{contract, validate};
use crate::policy;
use crate::status::{Refused, invalid};

/// Routes of a method that one contract may serve.
const ROUTES_MAX: usize = 1024;

/// Checks the routes that a decision gives a method.
pub(super) fn check(field: &str, policy: &MethodPolicy) -> Result<(), Refused> {
    let info = info(policy);
    if info.served_routes.len() > ROUTES_MAX {
        return Err(invalid(field, format!("at most {ROUTES_MAX} routes")));
    }
    let named = [&info.route].into_iter().filter(|route| !route.is_empty());
    for route in named.chain(&info.served_routes) {
        validate::route(field, route)?;
        if method_of(route) != info.method {
            return Err(invalid(
                field,
                format!("{route} is no route of {}", info.method),
            ));
        }
    }
    Ok(())
}

/// What is put in force, and what the announcer is told.
///
/// In force, a policy holds for every route of its method. Beside others, only routes that are new get a policy: the
/// one in force, or their own if the method is new.
pub(super) fn routed(
    partition: &Partition,
    infos: &[MethodInfo],
    compiled: Vec<MethodPolicy>,
    beside: &[String],
) -> (Vec<MethodPolicy>, Vec<MethodInfo>) {
    let is_beside = |method: &str| {
        let mut services = beside.iter();
        services.any(|service| contract::serves(service, method))
    };
    let mut policies = Vec::new();
    for own in compiled {
        let current = partition
            .policy(&own.method)
            .filter(|_| is_beside(&own.method))
            .cloned();
        let known: BTreeSet<Arc<str>> = partition.routes(&own.method).into_iter().collect();
        let info = info(&own);
        let named = info.served_routes.iter().chain([&info.route]);
        let mut routes: BTreeSet<Arc<str>> = named
            .filter(|route| !route.is_empty())
            .map(|route| Arc::from(route.as_str()))
            .collect();
        routes.insert(Arc::clone(&own.method));
        match current {
            Some(_) => routes.retain(|route| !known.contains(route)),
            None => routes.extend(known),
        }
        let policy = current.unwrap_or(own);
        policies.extend(routes.iter().filter_map(|route| by_route(&policy, route)));
    }
    let told = |info: &MethodInfo| match is_beside(&info.method) {
        true => contract::routed(partition, info.clone()),
        false => info.clone(),
    };
    (policies, infos.iter().map(told).collect())
}

/// A policy under the name of a route, in its source too, which is what the log keeps.
fn by_route(policy: &MethodPolicy, route: &Arc<str>) -> Option<MethodPolicy> {
    if policy.method == *route {
        return Some(policy.clone());
    }
    let mut source = policy::source(policy).ok()?;
    source.info.as_mut()?.method = route.to_string();
    policy::compiled(&source)
}

fn info(policy: &MethodPolicy) -> MethodInfo {
    let source = policy::source(policy).ok();
    source.and_then(|source| source.info).unwrap_or_default()
}
