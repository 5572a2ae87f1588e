//! Fairness keys: keys that have tasks waiting take turns, however many wait of each.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::{Attempt, Effect};
use plait_broker_core::ids::TaskId;
use plait_broker_core::policy::{Limits, MethodPolicy};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

fn fair() -> MethodPolicy {
    MethodPolicy {
        limits: Limits {
            fair_by_key: true,
            ..Limits::default()
        },
        ..policy(METHOD)
    }
}

fn of(tenant: usize) -> SubmitTask {
    SubmitTask {
        limit_key: Some(name(&format!("t{tenant}"))),
        ..task(METHOD)
    }
}

struct World {
    h: Harness,
    tenants: BTreeMap<TaskId, usize>,
    waiting: BTreeMap<usize, u64>,
    running: VecDeque<Attempt>,
    /// For each two tenants that have waited ever since: the starts that the first had more, now, at the least and at
    /// the most.
    ahead: BTreeMap<(usize, usize), (i64, i64, i64)>,
}

impl World {
    fn new(slots: u32) -> Self {
        let mut h = Harness::with_policies(config(), vec![fair()]);
        h.attach(WORKER, "w1", &[METHOD], slots);
        Self {
            h,
            tenants: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: VecDeque::new(),
            ahead: BTreeMap::new(),
        }
    }

    fn submit(&mut self, tenant: usize, count: usize) {
        let effects = self.h.submit(vec![of(tenant); count]);
        let ids = acceptance(&effects).tasks.into_iter();
        self.tenants.extend(ids.map(|id| (TaskId(id), tenant)));
        *self.waiting.entry(tenant).or_default() += count as u64;
        self.see(&effects);
    }

    fn see(&mut self, effects: &[Effect]) {
        for attempt in attempts(effects, WORKER) {
            self.started(self.tenants[&attempt.task]);
            self.running.push_back(attempt);
        }
    }

    fn started(&mut self, tenant: usize) {
        for other in self.waiting.keys().filter(|other| **other != tenant) {
            let pair = (tenant.min(*other), tenant.max(*other));
            let step = if tenant == pair.0 { 1 } else { -1 };
            let (now, least, most) = self.ahead.entry(pair).or_default();
            *now += step;
            (*least, *most) = ((*least).min(*now), (*most).max(*now));
            assert!(*most - *least <= 1, "{tenant} had two turns before {other}");
        }
        let waiting = self.waiting.get_mut(&tenant).expect("it waited");
        *waiting -= 1;
        if *waiting == 0 {
            self.waiting.remove(&tenant);
            self.ahead
                .retain(|(one, other), _| *one != tenant && *other != tenant);
        }
    }

    fn end(&mut self, count: usize) {
        for _ in 0..count {
            let Some(attempt) = self.running.pop_front() else {
                return;
            };
            let effects = self.h.succeed(WORKER, &attempt);
            self.see(&effects);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn tenants_that_wait_take_turns(
        slots in 1..10u32,
        acts in proptest::collection::vec((0..5usize, 1..30usize, 0..40usize), 1..40),
    ) {
        let mut world = World::new(slots);
        for (tenant, count, ended) in acts {
            world.submit(tenant, count);
            world.end(ended);
        }
        world.end(usize::MAX);
        prop_assert!(world.waiting.is_empty());
    }
}

#[test]
fn a_hot_tenant_costs_others_one_start_each() {
    let mut world = World::new(1);
    for _ in 0..10 {
        world.submit(0, 2_000);
    }
    world.submit(1, 3);
    world.submit(2, 3);
    let begun = world.h.log.len();
    world.end(10);
    assert!(world.h.log.len() > begun);
    assert_eq!(world.waiting.keys().collect::<Vec<_>>(), [&0]);
}

#[test]
fn turns_go_on_after_a_restart() {
    let mut h = Harness::with_policies(config(), vec![fair()]);
    h.submit(vec![of(0); 100]);
    h.submit(vec![of(1); 3]);
    h.submit(vec![of(2); 3]);
    h.restart();
    let effects = h.attach(WORKER, "w1", &[METHOD], 3);
    let ids: Vec<u64> = attempts(&effects, WORKER)
        .iter()
        .map(|attempt| attempt.task.0)
        .collect();
    assert_eq!(ids, [1, 101, 104, 2, 102, 105]);
}

#[test]
fn tasks_that_wait_take_turns_as_soon_as_they_are_to() {
    let mut h = Harness::new();
    h.submit(vec![of(0); 100]);
    h.submit(vec![of(1); 3]);
    h.apply(Command::ApplyPolicies {
        tag: plait_broker_core::ids::ReplyTag(0),
        policies: vec![fair()],
    });
    let effects = h.attach(WORKER, "w1", &[METHOD], 2);
    let ids: Vec<u64> = attempts(&effects, WORKER)
        .iter()
        .map(|attempt| attempt.task.0)
        .collect();
    assert_eq!(ids, [1, 101, 2, 102]);
}
