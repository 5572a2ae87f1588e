//! Weights of tenants against an independent account: of two keys that both have something to start, none is ahead of
//! its share by a start of each, over any time, whatever is submitted, held, killed and weighed anew in between.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::{Effect, Error, Reply};
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Limits, MethodPolicy};
use plait_broker_core::record::Record;
use plait_broker_core::weight::{WEIGHTS_PREFIX, Weights};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const KEYS: usize = 5;
const FAIR: Limits = Limits {
    rate: None,
    rate_by_key: false,
    running_max: 0,
    running_per_key_max: 0,
    fair_by_key: true,
};

fn fair(limits: Limits) -> MethodPolicy {
    MethodPolicy {
        limits,
        ..policy(METHOD)
    }
}

fn of(key: usize) -> SubmitTask {
    SubmitTask {
        limit_key: Some(name(&format!("t{key}"))),
        ..task(METHOD)
    }
}

fn weights(given: &[(usize, u32)]) -> Weights {
    let given = given.iter();
    Weights::new(given.map(|(key, weight)| (name(&format!("t{key}")), *weight)))
}

fn weigh(given: &[(usize, u32)]) -> Command {
    let record: String = given
        .iter()
        .map(|(key, own)| format!("{key}={own} "))
        .collect();
    Command::SetWeights {
        tag: ReplyTag(9),
        method: name(METHOD),
        weights: weights(given),
        record: record.into(),
    }
}

/// What a shell does after a crash.
fn restore(h: &mut Harness) {
    let kept = h.partition.kv_get(&format!("{WEIGHTS_PREFIX}{METHOD}"));
    let Some((record, _)) = kept else {
        return;
    };
    let text = String::from_utf8(record.to_vec()).expect("it was text");
    let given: Vec<(usize, u32)> = text
        .split_whitespace()
        .map(|pair| pair.split_once('=').expect("a pair"))
        .map(|(key, own)| (key.parse().expect("a key"), own.parse().expect("a weight")))
        .collect();
    let now = h.now;
    h.partition
        .restore_weights(name(METHOD), weights(&given), now);
}

#[derive(Clone, Debug)]
enum Act {
    Submit(usize, usize),
    End(usize),
    Cancel(usize),
    Weigh(usize, u32),
    Unweigh(usize),
    Restart,
}

fn acts() -> impl Strategy<Value = Act> {
    let weight = prop_oneof![3 => 1..6u32, 1 => 1..1001u32];
    prop_oneof![
        8 => (0..KEYS, 1..40usize).prop_map(|(key, count)| Act::Submit(key, count)),
        12 => (1..60usize).prop_map(Act::End),
        1 => (0..1_000usize).prop_map(Act::Cancel),
        3 => (0..KEYS, weight).prop_map(|(key, weight)| Act::Weigh(key, weight)),
        1 => (0..KEYS).prop_map(Act::Unweigh),
        1 => Just(Act::Restart),
    ]
}

struct World {
    h: Harness,
    weights: BTreeMap<usize, u32>,
    at_once: usize,
    slots: u32,
    worker: u64,
    waiting: BTreeMap<TaskId, usize>,
    running: VecDeque<(TaskId, Token, usize)>,
    /// For each two keys that have had something to start ever since: how far the first was ahead of its share, in
    /// units of one over both weights, now, at the least and at the most.
    ahead: BTreeMap<(usize, usize), (i64, i64, i64)>,
    /// No worker takes anything.
    draining: bool,
    taken: usize,
}

impl World {
    fn new(slots: u32, at_once: usize) -> Self {
        let limits = Limits {
            running_per_key_max: at_once as u32,
            ..FAIR
        };
        let mut world = Self {
            h: Harness::with_policies(config(), vec![fair(limits)]),
            weights: BTreeMap::new(),
            at_once,
            slots,
            worker: 0,
            waiting: BTreeMap::new(),
            running: VecDeque::new(),
            ahead: BTreeMap::new(),
            draining: false,
            taken: 0,
        };
        world.come();
        world
    }

    fn come(&mut self) {
        self.worker += 1;
        let id = format!("w{}", self.worker);
        self.h.attach(self.conn(), &id, &[METHOD], self.slots);
    }

    fn conn(&self) -> ConnId {
        ConnId(10 + self.worker)
    }

    fn weight(&self, key: usize) -> i64 {
        self.weights
            .get(&key)
            .map_or(1, |weight| i64::from(*weight))
    }

    fn startable(&self) -> BTreeSet<usize> {
        let waits: BTreeSet<usize> = self.waiting.values().copied().collect();
        let runs = |key| self.running.iter().filter(|(.., own)| *own == key).count();
        let free = |key: &usize| self.at_once == 0 || runs(*key) < self.at_once;
        waits.into_iter().filter(free).collect()
    }

    fn see(&mut self) {
        let records = self.h.log[self.taken..].to_vec();
        self.taken = self.h.log.len();
        let mut starts = Vec::new();
        for (_, record) in records {
            match record {
                Record::Submitted { tasks, .. } => self.waiting.extend(tasks.iter().map(|task| {
                    let key = task
                        .limit_key
                        .as_ref()
                        .and_then(|key| key[1..].parse().ok());
                    (task.id, key.expect("one of them"))
                })),
                Record::Started { starts: own, .. } => {
                    starts.extend(own.into_iter().map(|start| (start.token, start.task)));
                }
                Record::Cancelled { task, .. } => {
                    self.waiting.remove(&task);
                }
                _ => {}
            }
        }
        starts.sort_unstable();
        for (token, task) in starts {
            self.started(token, task);
        }
        self.forget();
        let room = self.running.len() < self.slots as usize && !self.draining;
        assert!(!room || self.startable().is_empty(), "work is conserved");
    }

    fn started(&mut self, token: Token, task: TaskId) {
        self.forget();
        let startable = self.startable();
        let key = self.waiting.remove(&task).expect("it waited");
        assert!(startable.contains(&key), "t{key} may not begin");
        for other in startable.iter().copied().filter(|other| *other != key) {
            let pair = (key.min(other), key.max(other));
            let step = if key == pair.0 { 1 } else { -1 } * self.weight(other);
            let (now, least, most) = self.ahead.entry(pair).or_default();
            *now += step;
            (*least, *most) = ((*least).min(*now), (*most).max(*now));
            // Also between any two moments in between.
            let bound = self.weights.get(&key).map_or(1, |own| i64::from(*own))
                + self.weights.get(&other).map_or(1, |own| i64::from(*own));
            assert!(*most - *least < bound, "{pair:?} by {:?}", self.weights);
        }
        self.running.push_back((task, token, key));
    }

    /// Pairs of which one has nothing to start begin anew.
    fn forget(&mut self) {
        let startable = self.startable();
        let have =
            |pair: &(usize, usize)| startable.contains(&pair.0) && startable.contains(&pair.1);
        self.ahead.retain(|pair, _| have(pair));
    }

    fn end(&mut self, count: usize) {
        for _ in 0..count {
            let Some((id, token, _)) = self.running.pop_front() else {
                return;
            };
            self.h.outcome(self.conn(), id, token, Ok(Bytes::new()));
            self.see();
        }
    }

    fn weighed(&mut self, key: usize) {
        self.ahead.retain(|pair, _| pair.0 != key && pair.1 != key);
        let given: Vec<(usize, u32)> = self.weights.clone().into_iter().collect();
        let effects = self.h.apply(weigh(&given));
        assert!(matches!(reply(&effects), Reply::Done));
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Submit(key, count) => drop(self.h.submit(vec![of(key); count])),
            Act::End(count) => return self.end(count),
            Act::Cancel(number) => {
                let found = self.waiting.keys().nth(number % self.waiting.len().max(1));
                if let Some(task) = found.copied() {
                    self.h.apply(cancel(task));
                }
            }
            Act::Weigh(key, weight) => {
                self.weights.insert(key, weight);
                self.weighed(key);
            }
            Act::Unweigh(key) => {
                self.weights.remove(&key);
                self.weighed(key);
            }
            Act::Restart => {
                // What runs ends first: the account knows no attempts that are lost.
                self.draining = true;
                self.h.apply(Command::WorkerDraining { conn: self.conn() });
                self.end(usize::MAX);
                self.h.restart();
                restore(&mut self.h);
                self.h.apply(Command::SessionOpened {
                    conn: CLIENT,
                    session: SESSION,
                });
                self.ahead.clear();
                self.draining = false;
                self.come();
            }
        }
        self.see();
    }
}

fn cancel(task: TaskId) -> Command {
    Command::Cancel {
        tag: ReplyTag(8),
        task,
        reason: name("test"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_key_is_ahead_of_its_share(
        slots in 1..12u32,
        at_once in 0..4usize,
        acts in proptest::collection::vec(acts(), 1..60),
    ) {
        let mut world = World::new(slots, at_once);
        for act in &acts {
            world.act(act);
        }
        world.end(usize::MAX);
        prop_assert!(world.waiting.is_empty());
    }
}

/// A worker of one slot, and the first letters of what it is given: T0 is `0`.
fn order(h: &mut Harness, effects: &[Effect], count: usize) -> String {
    let mut running: VecDeque<_> = attempts(effects, WORKER).into();
    let mut order: Vec<TaskId> = running.iter().map(|attempt| attempt.task).collect();
    while order.len() < count {
        let attempt = running.pop_front().expect("something runs");
        let effects = h.succeed(WORKER, &attempt);
        let next = attempts(&effects, WORKER);
        order.extend(next.iter().map(|attempt| attempt.task));
        running.extend(next);
    }
    order.truncate(count);
    let key = |id: &TaskId| h.limit_key(*id)[1..].to_owned();
    order.iter().map(key).collect()
}

impl Harness {
    fn limit_key(&self, id: TaskId) -> String {
        let tasks = self.log.iter().filter_map(|(_, record)| match record {
            Record::Submitted { tasks, .. } => Some(tasks),
            _ => None,
        });
        let task = tasks.flatten().find(|task| task.id == id);
        let key = task.and_then(|task| task.limit_key.clone());
        key.expect("it has one").to_string()
    }
}

fn world(given: &[(usize, u32)]) -> Harness {
    let mut h = Harness::with_policies(config(), vec![fair(FAIR)]);
    h.apply(weigh(given));
    for key in 0..3 {
        h.submit(vec![of(key); 200]);
    }
    h
}

#[test]
fn starts_go_by_weight() {
    let mut h = world(&[(1, 3)]);
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    assert_eq!(order(&mut h, &effects, 15), "012110121101211");
}

#[test]
fn the_first_weight_and_the_last_one_hold_at_once() {
    let mut h = world(&[]);
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    // Two attempts are at the worker, the others follow.
    assert_eq!(order(&mut h, &effects, 2), "01");
    h.apply(weigh(&[(2, 8)]));
    let started = |h: &Harness| {
        let starts = h.log.iter().map(|(_, record)| match record {
            Record::Started { starts, .. } => starts.clone(),
            _ => Vec::new(),
        });
        starts.flatten().collect::<Vec<_>>()
    };
    let serve = |h: &mut Harness, count: usize| -> usize {
        let from = started(h).len();
        for at in 0..count {
            let start = started(h)[from - 2 + at];
            h.outcome(WORKER, start.task, start.token, Ok(Bytes::new()));
        }
        let starts = started(h);
        let own = starts[from..].iter();
        own.filter(|start| h.limit_key(start.task) == "t2").count()
    };
    assert_eq!(serve(&mut h, 100), 80);
    h.apply(weigh(&[]));
    let third = serve(&mut h, 90);
    assert!((29..=31).contains(&third), "{third} of 90");
}

#[test]
fn weights_come_back_before_anything_begins() {
    let mut h = world(&[(0, 2), (2, 5)]);
    h.restart();
    restore(&mut h);
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    let order = order(&mut h, &effects, 80);
    let counts = ["0", "1", "2"].map(|key| order.matches(key).count());
    assert_eq!(counts, [20, 10, 50]);
    // And out of a snapshot.
    let image = h.image();
    let mut partition = plait_broker_core::Partition::new(config());
    for record in image {
        partition.replay(record, h.now);
    }
    let kept = partition.kv_get(&format!("{WEIGHTS_PREFIX}{METHOD}"));
    assert_eq!(kept.map(|(value, _)| value), Some("0=2 2=5 ".into()));
}

#[test]
fn no_weights_are_no_record() {
    let mut h = world(&[(0, 2)]);
    let key = format!("{WEIGHTS_PREFIX}{METHOD}");
    assert!(h.partition.kv_get(&key).is_some());
    let records = h.log.len();
    h.apply(weigh(&[(0, 2)]));
    assert_eq!(h.log.len(), records, "said again, it is not written again");
    h.apply(weigh(&[]));
    assert_eq!(h.partition.kv_get(&key), None);
    h.apply(weigh(&[]));
    assert_eq!(h.log.len(), records + 1);
}

#[test]
fn weights_wait_for_their_method_and_for_its_turns() {
    let mut h = Harness::new();
    h.apply(weigh(&[(1, 4)]));
    for key in 0..2 {
        h.submit(vec![of(key); 100]);
    }
    h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: vec![fair(FAIR)],
    });
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    let begun = order(&mut h, &effects, 50);
    assert_eq!(begun.matches('1').count(), 40);
}

#[test]
fn a_key_that_submits_one_task_at_a_time_has_no_more_than_its_share() {
    let mut h = Harness::with_policies(config(), vec![fair(FAIR)]);
    h.apply(weigh(&[(0, 9)]));
    h.submit(vec![of(0); 500]);
    h.submit(vec![of(1)]);
    let mut running: VecDeque<_> = attempts(&h.attach(WORKER, "w1", &[METHOD], 1), WORKER).into();
    let mut had = 0;
    for _ in 0..200 {
        let attempt = running.pop_front().expect("something runs");
        if h.limit_key(attempt.task) == "t1" {
            had += 1;
        }
        let mut effects = h.succeed(WORKER, &attempt);
        if h.limit_key(attempt.task) == "t1" {
            effects.extend(h.submit(vec![of(1)]));
        }
        running.extend(attempts(&effects, WORKER));
    }
    assert!((18..=21).contains(&had), "{had} of 200");
}

#[test]
fn weights_that_cannot_hold_are_refused_and_change_nothing() {
    let mut h = world(&[(1, 3)]);
    let records = h.log.len();
    let many: Vec<(usize, u32)> = (0..1_001).map(|key| (key, 2)).collect();
    let long = Weights::new([(name(&"x".repeat(257)), 2)]);
    let empty = Weights::new([(name(""), 2)]);
    for wrong in [
        weights(&[(0, 0)]),
        weights(&[(0, 1_001)]),
        weights(&many),
        long,
        empty,
    ] {
        let effects = h.apply(Command::SetWeights {
            tag: ReplyTag(9),
            method: name(METHOD),
            weights: wrong,
            record: Bytes::from_static(b"wrong"),
        });
        let Reply::Error(Error::Invalid { field, .. }) = reply(&effects) else {
            panic!("{effects:?}");
        };
        assert_eq!(field, "weights");
    }
    assert_eq!(h.log.len(), records);
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    assert_eq!(order(&mut h, &effects, 5), "01211");
}
