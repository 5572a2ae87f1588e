//! Behaviour of a partition as SEMANTICS tells it, one file a subject; the tests' names say what is promised.

mod absent_flows;
mod archive;
mod cancellation;
mod deadlines;
mod dedup;
mod fencing;
mod flows;
mod gates;
mod guard;
mod guard_property;
mod harness;
mod hostile;
mod lifecycle;
mod limits;
mod limits_property;
mod metrics;
mod model;
mod operations;
mod ordering;
mod redriven_children;
mod residency;
mod restart;
mod retries;
mod routes;
mod sessions;
mod workers;
