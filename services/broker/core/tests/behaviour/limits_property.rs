//! Limits against an independent account of them: nothing begins that may not, and nothing waits that may begin.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Limits, MethodPolicy, Rate};
use plait_broker_core::record::Record;
use proptest::prelude::*;
use std::collections::BTreeMap;

const LATER: &str = "/shop.v1.Orders/Charge@2";
const ROUTES: [&str; 2] = [METHOD, LATER];

/// A bucket of tokens in whole numbers: a start costs the period, and each reading of the clock fills in the starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    level: u128,
    at: Millis,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            level: full(rate),
            at: 0,
        }
    }

    pub(crate) fn fill(&mut self, rate: Rate, now: Millis) {
        let filled = u128::from(now - self.at) * u128::from(rate.starts);
        self.level = (self.level + filled).min(full(rate));
        self.at = now;
    }

    pub(crate) fn may(&self, rate: Rate) -> bool {
        self.level >= u128::from(rate.period_ms)
    }

    pub(crate) fn take(&mut self, rate: Rate) {
        self.level -= u128::from(rate.period_ms);
    }

    /// As many starts are used up of another rate.
    fn convert(&mut self, from: Rate, to: Rate, now: Millis) {
        self.fill(from, now);
        let debt = full(from) - self.level;
        let used = debt.div_ceil(u128::from(from.period_ms));
        let used = used.min(u128::from(to.burst));
        self.level = full(to) - used * u128::from(to.period_ms);
    }
}

fn full(rate: Rate) -> u128 {
    u128::from(rate.burst) * u128::from(rate.period_ms) + u128::from(rate.starts) - 1
}

/// What a limit counts by.
type Group = Option<String>;

#[derive(Debug, Default)]
struct Account {
    limits: Limits,
    /// The key of each task that is not over.
    keys: BTreeMap<TaskId, Group>,
    running: BTreeMap<TaskId, Attempt>,
    buckets: BTreeMap<Group, Bucket>,
}

impl Account {
    fn group(&self, task: TaskId) -> Group {
        self.limits
            .rate_by_key
            .then(|| self.keys[&task].clone())
            .flatten()
    }

    fn bucket(&mut self, task: TaskId, rate: Rate, now: Millis) -> &mut Bucket {
        let group = self.group(task);
        let bucket = self
            .buckets
            .entry(group)
            .or_insert_with(|| Bucket::new(rate));
        bucket.fill(rate, now);
        bucket
    }

    fn may_start(&mut self, task: TaskId, now: Millis) -> bool {
        let of_key = |own: &TaskId| self.keys[own] == self.keys[&task];
        let same = self.running.keys().filter(|own| of_key(own)).count();
        let limits = self.limits;
        let below = |most: u32, count: usize| most == 0 || count < most as usize;
        let room = below(limits.running_max, self.running.len())
            && below(limits.running_per_key_max, same);
        room && limits
            .rate
            .is_none_or(|rate| self.bucket(task, rate, now).may(rate))
    }

    fn start(&mut self, attempt: Attempt, now: Millis) {
        let task = attempt.task;
        assert!(
            self.may_start(task, now),
            "{task} begins at {now}: {self:?}"
        );
        if let Some(rate) = self.limits.rate {
            self.bucket(task, rate, now).take(rate);
        }
        self.running.insert(task, attempt);
    }

    fn change(&mut self, limits: Limits, now: Millis) {
        let old = std::mem::replace(&mut self.limits, limits);
        // Said again, they go on.
        if old == limits {
            return;
        }
        match (old.rate, limits.rate) {
            (Some(from), Some(to)) if old.rate_by_key == limits.rate_by_key => {
                let buckets = self.buckets.values_mut();
                buckets.for_each(|bucket| bucket.convert(from, to, now));
            }
            _ => self.buckets.clear(),
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Submit(usize, Group, u8, bool),
    End(prop::sample::Index, bool),
    Pass(u64),
    Change(Limits),
    Restart(bool),
}

fn rates() -> impl Strategy<Value = Rate> {
    (1..8u64, prop_oneof![1..20u64, Just(1_000)], 1..5u64).prop_map(|(starts, period_ms, burst)| {
        Rate {
            starts,
            period_ms,
            burst,
        }
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let rate = proptest::option::of(rates());
    (rate, any::<[bool; 2]>(), 0..6u32, 0..3u32).prop_map(
        |(rate, [rate_by_key, fair_by_key], most, per_key)| Limits {
            rate,
            rate_by_key,
            running_max: most,
            running_per_key_max: per_key,
            fair_by_key,
        },
    )
}

fn acts() -> impl Strategy<Value = Act> {
    let key = prop_oneof![Just(None), (0..4u8).prop_map(|key| Some(format!("k{key}")))];
    prop_oneof![
        8 => (0..2usize, key, 0..10u8, any::<bool>())
            .prop_map(|(route, key, priority, urgent)| Act::Submit(route, key, priority, urgent)),
        8 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(at, ok)| Act::End(at, ok)),
        4 => prop_oneof![0..5u64, 0..300u64].prop_map(Act::Pass),
        1 => limits().prop_map(Act::Change),
        1 => any::<bool>().prop_map(Act::Restart),
    ]
}

struct World {
    h: Harness,
    account: Account,
    taken: usize,
}

impl World {
    fn new(limits: Limits) -> Self {
        let h = Harness::with_policies(config(), policies(limits));
        let account = Account {
            limits,
            ..Account::default()
        };
        let taken = h.log.len();
        let mut world = Self { h, account, taken };
        world.attach();
        world
    }

    fn attach(&mut self) {
        let effects = self.h.attach(WORKER, "w", &ROUTES, 10_000);
        self.see(&effects);
    }

    /// Takes in what happened, in its order.
    fn see(&mut self, effects: &[Effect]) {
        let mut sent: BTreeMap<(TaskId, Token), Attempt> = attempts(effects, WORKER)
            .into_iter()
            .map(|attempt| ((attempt.task, attempt.token), attempt))
            .collect();
        for (time, record) in &self.h.log[self.taken..] {
            match record {
                Record::Started { starts, .. } => {
                    for start in starts {
                        let attempt = sent.remove(&(start.task, start.token));
                        self.account.start(attempt.expect("it was sent"), *time);
                    }
                }
                Record::Submitted { tasks, .. } => {
                    let keys = tasks
                        .iter()
                        .map(|task| (task.id, task.limit_key.as_deref().map(str::to_owned)));
                    self.account.keys.extend(keys);
                }
                Record::Succeeded { tasks } => {
                    tasks
                        .iter()
                        .for_each(|(id, _)| drop(self.account.running.remove(id)));
                }
                Record::Failed { task, .. } | Record::Retried { task, .. } => {
                    self.account.running.remove(task);
                }
                Record::Returned { tasks, .. } => {
                    tasks
                        .iter()
                        .for_each(|id| drop(self.account.running.remove(id)));
                }
                _ => {}
            }
        }
        self.taken = self.h.log.len();
    }

    fn act(&mut self, act: Act) {
        let effects = match act {
            Act::Submit(route, key, priority, urgent) => {
                let options = SubmitOptions {
                    priority: urgent.then_some(priority),
                    ..SubmitOptions::default()
                };
                let task = SubmitTask {
                    limit_key: key.map(|key| key.as_str().into()),
                    ..task(ROUTES[route])
                };
                self.h.submit(vec![with(task, options)])
            }
            Act::End(at, ok) => {
                if self.account.running.is_empty() {
                    return;
                }
                let at = at.index(self.account.running.len());
                let attempt = self
                    .account
                    .running
                    .values()
                    .nth(at)
                    .expect("it runs")
                    .clone();
                match ok {
                    true => self.h.succeed(WORKER, &attempt),
                    false => self.h.fail(WORKER, &attempt, UNAVAILABLE),
                }
            }
            Act::Pass(ms) => return self.pass(ms),
            Act::Change(limits) => {
                self.account.change(limits, self.h.now);
                self.h.apply(Command::ApplyPolicies {
                    tag: ReplyTag(0),
                    policies: policies(limits),
                })
            }
            Act::Restart(snapshot) => return self.restart(snapshot),
        };
        self.see(&effects);
    }

    fn pass(&mut self, ms: u64) {
        let until = self.h.now + ms;
        while let Some(at) = self.h.partition.next_timer().filter(|at| *at <= until) {
            self.h.now = self.h.now.max(at);
            let effects = self.h.apply(Command::Tick);
            self.see(&effects);
        }
        self.h.now = until;
    }

    fn restart(&mut self, snapshot: bool) {
        if snapshot {
            let now = self.h.now;
            self.h.log = self
                .h
                .image()
                .into_iter()
                .map(|record| (now, record))
                .collect();
        }
        self.taken = self.h.log.len();
        self.h.restart();
        self.h.apply(Command::SessionOpened {
            conn: CLIENT,
            session: SESSION,
        });
        self.attach();
        // A limit whose time came while nobody served is looked at first.
        self.pass(0);
    }

    /// Nothing waits that may begin.
    fn check(&mut self) {
        let waiting: Vec<TaskId> = self.account.keys.keys().copied().collect();
        for id in waiting {
            if self
                .h
                .partition
                .task(id)
                .is_some_and(|task| task.state == TaskState::Ready)
                && !self.account.running.contains_key(&id)
            {
                let may = self.account.may_start(id, self.h.now);
                assert!(!may, "{id} waits at {}: {:?}", self.h.now, self.account);
            }
        }
    }
}

fn policies(limits: Limits) -> Vec<MethodPolicy> {
    let policy = |method| MethodPolicy {
        limits,
        max_attempts: 1_000,
        ..policy(method)
    };
    ROUTES.map(policy).to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_begins_that_may_not_and_nothing_waits_that_may(
        first in limits(),
        acts in proptest::collection::vec(acts(), 1..150),
    ) {
        let mut world = World::new(first);
        for act in acts {
            world.act(act);
            world.check();
        }
        // Nothing is held for good.
        for _ in 0..100_000 {
            let running: Vec<Attempt> = world.account.running.values().cloned().collect();
            for attempt in &running {
                let effects = world.h.succeed(WORKER, attempt);
                world.see(&effects);
            }
            let queue = world.h.partition.queues().remove(0);
            let over = |state: TaskState| state.is_final();
            if queue.counts.iter().all(|(state, _)| over(*state)) {
                prop_assert!(queue.held.is_empty());
                return Ok(());
            }
            if running.is_empty() {
                let due = world.h.partition.next_timer().expect("something is due");
                world.pass(due.saturating_sub(world.h.now));
            }
        }
        prop_assert!(false, "tasks never end");
    }
}
