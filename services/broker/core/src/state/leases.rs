//! Leases: who may run which attempt. The name of the worker survives a crash; the worker's
//! stream and what the run of a flow has asked for do not.

use super::slab::{NONE, Slab};
use super::task::Link;
use crate::ids::Millis;
use crate::policy::Latency;
use std::collections::BTreeMap;

/// One lease.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Slot of the task.
    pub(crate) task: u32,
    /// Name of the worker.
    pub(crate) name: u32,
    /// When the attempt's own time is over.
    pub(crate) deadline: Millis,
    /// The attached worker, or NONE: it has not come back since the restart.
    pub(crate) worker: u32,
    /// The frame it was sent in; 0: the worker brought it along.
    pub(crate) sequence: u64,
    /// The latency class as which the worker counts it.
    pub(crate) latency: Latency,
    /// Its place among the worker's leases.
    pub(crate) link: Link,
    /// What the attempt did as a flow.
    pub(crate) run: Option<Box<Run>>,
}

/// What one attempt of a flow asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// How many calls had this digest.
    pub(crate) calls: BTreeMap<u128, u32>,
    /// Children that earlier runs recorded.
    pub(crate) recorded: u64,
    /// How many of them this run asked for.
    pub(crate) asked: u64,
    /// Awaited tasks that are not final. Above 0 the flow is SUSPENDED.
    pub(crate) outstanding: u64,
    /// How many of those are not its children: no end of a child would wake the flow for them.
    pub(crate) foreign: u64,
    /// Whether an awaited task became final since the run's last call.
    pub(crate) news: bool,
}

impl Lease {
    pub(crate) fn new(task: u32, name: u32, deadline: Millis) -> Self {
        Self {
            task,
            name,
            deadline,
            worker: NONE,
            sequence: 0,
            latency: Latency::default(),
            link: Link::FREE,
            run: None,
        }
    }

    /// Whether the flow waits for tasks.
    pub(crate) fn is_waiting(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.outstanding > 0)
    }
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub(crate) slab: Slab<Lease>,
}

impl Leases {
    /// Puts a lease at the head of a worker's list.
    pub(crate) fn attach(&mut self, first: &mut u32, lease: u32, worker: u32, sequence: u64) {
        let next = std::mem::replace(first, lease);
        let entry = &mut self.slab[lease];
        entry.worker = worker;
        entry.sequence = sequence;
        entry.link = Link { prev: NONE, next };
        if next != NONE {
            self.slab[next].link.prev = lease;
        }
    }

    /// Takes a lease out of its worker's list.
    pub(crate) fn detach(&mut self, first: &mut u32, lease: u32) {
        let entry = &mut self.slab[lease];
        let Link { prev, next } = std::mem::replace(&mut entry.link, Link::FREE);
        entry.worker = NONE;
        if prev == NONE {
            debug_assert_eq!(*first, lease, "the first of a list has none before it");
            *first = next;
        } else {
            self.slab[prev].link.next = next;
        }
        if next != NONE {
            self.slab[next].link.prev = prev;
        }
    }
}
