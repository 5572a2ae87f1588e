//! Shares of queues against an independent account of them: of two queues that both have something to start, none is
//! ahead of its share by more than a start of each, over any time; and nothing waits that could begin.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::Effect;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Limits, MethodPolicy};
use plait_broker_core::record::Record;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Each with the number of its queue. The last one runs one at a time.
const METHODS: [(&str, usize); 5] = [
    ("/s.v1.A/One", 0),
    ("/s.v1.A/Two", 0),
    ("/s.v1.B/One", 1),
    ("/s.v1.C/One", 2),
    ("/s.v1.D/One", 3),
];
const QUEUES: usize = 4;
const LAST: usize = METHODS.len() - 1;

fn policies(weights: [u32; QUEUES]) -> Vec<MethodPolicy> {
    let policies = METHODS.iter().map(|(method, queue)| MethodPolicy {
        queue: name(&format!("q{queue}")),
        queue_weight: weights[*queue],
        limits: Limits {
            running_max: u32::from(*method == METHODS[LAST].0),
            ..Limits::default()
        },
        ..policy(method)
    });
    policies.collect()
}

#[derive(Clone, Debug)]
enum Act {
    Submit(usize, usize),
    End(usize),
    Pause(usize),
    Resume(usize),
    Come,
}

fn acts() -> impl Strategy<Value = Act> {
    let method = 0..METHODS.len();
    prop_oneof![
        6 => (method, 1..40usize).prop_map(|(method, count)| Act::Submit(method, count)),
        12 => (1..40usize).prop_map(Act::End),
        1 => (0..QUEUES).prop_map(Act::Pause),
        2 => (0..QUEUES).prop_map(Act::Resume),
        1 => Just(Act::Come),
    ]
}

struct World {
    h: Harness,
    weights: [i64; QUEUES],
    slots: u32,
    waiting: BTreeMap<TaskId, usize>,
    running: VecDeque<(TaskId, Token, usize)>,
    paused: BTreeSet<usize>,
    /// For each two queues that have had something to start ever since: how far the first was ahead of its share, in
    /// units of one over both weights, now, at the least and at the most.
    ahead: BTreeMap<(usize, usize), (i64, i64, i64)>,
    workers: u64,
    taken: usize,
}

impl World {
    fn new(weights: [u32; QUEUES], slots: u32) -> Self {
        let h = Harness::with_policies(config(), policies(weights));
        let mut world = Self {
            taken: h.log.len(),
            h,
            weights: weights.map(i64::from),
            slots,
            waiting: BTreeMap::new(),
            running: VecDeque::new(),
            paused: BTreeSet::new(),
            ahead: BTreeMap::new(),
            workers: 0,
        };
        world.come();
        world
    }

    /// A worker takes the place of the one that was there, which ends what it has.
    fn come(&mut self) {
        if self.workers > 0 {
            self.h.apply(Command::WorkerDraining { conn: self.conn() });
            while let Some((id, token, _)) = self.running.pop_front() {
                self.h
                    .outcome(self.conn(), id, token, Ok(bytes::Bytes::new()));
            }
            self.h.apply(Command::WorkerDetached {
                conn: self.conn(),
                reason: name(""),
            });
        }
        self.workers += 1;
        let methods = METHODS.map(|(method, _)| method);
        let worker = format!("w{}", self.workers);
        self.h.attach(self.conn(), &worker, &methods, self.slots);
        self.see();
    }

    fn conn(&self) -> ConnId {
        ConnId(10 + self.workers)
    }

    fn startable(&self) -> BTreeSet<usize> {
        let last_runs = self.running.iter().any(|(.., method)| *method == LAST);
        let methods = self.waiting.values().copied().collect::<BTreeSet<_>>();
        let free = methods
            .into_iter()
            .filter(|method| *method != LAST || !last_runs);
        let queues = free.map(|method| METHODS[method].1);
        queues
            .filter(|queue| !self.paused.contains(queue))
            .collect()
    }

    fn see(&mut self) {
        let records = self.h.log[self.taken..].to_vec();
        self.taken = self.h.log.len();
        let mut starts = Vec::new();
        for (_, record) in records {
            match record {
                Record::Submitted { tasks, .. } => {
                    for task in tasks {
                        let of = METHODS.iter().position(|(name, _)| **name == *task.method);
                        self.waiting.insert(task.id, of.expect("one of them"));
                    }
                }
                Record::Started { starts: own, .. } => {
                    starts.extend(own.into_iter().map(|start| (start.token, start.task)));
                }
                _ => {}
            }
        }
        starts.sort_unstable();
        for (token, task) in starts {
            self.started(token, task);
        }
        self.forget();
        let room = self.running.len() < 2 * self.slots as usize;
        assert!(!room || self.startable().is_empty(), "work is conserved");
    }

    fn started(&mut self, token: Token, task: TaskId) {
        self.forget();
        let startable = self.startable();
        let method = self.waiting.remove(&task).expect("it waited");
        let queue = METHODS[method].1;
        assert!(startable.contains(&queue), "q{queue} may not begin");
        for other in startable.iter().copied().filter(|other| *other != queue) {
            let pair = (queue.min(other), queue.max(other));
            let step = if queue == pair.0 { 1 } else { -1 } * self.weights[other];
            let (now, least, most) = self.ahead.entry(pair).or_default();
            *now += step;
            (*least, *most) = ((*least).min(*now), (*most).max(*now));
            // Also between any two moments in between.
            let bound = self.weights[queue] + self.weights[other];
            assert!(*most - *least <= bound, "{pair:?} by {:?}", self.weights);
        }
        self.running.push_back((task, token, method));
    }

    /// Pairs of which one has nothing to start begin anew.
    fn forget(&mut self) {
        let startable = self.startable();
        let have =
            |(one, other): &(usize, usize)| startable.contains(one) && startable.contains(other);
        self.ahead.retain(|pair, _| have(pair));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Submit(method, count) => {
                self.h.submit(vec![task(METHODS[method].0); count]);
            }
            Act::End(count) => {
                for _ in 0..count {
                    let Some((id, token, _)) = self.running.pop_front() else {
                        return;
                    };
                    self.h
                        .outcome(self.conn(), id, token, Ok(bytes::Bytes::new()));
                    self.see();
                }
                return;
            }
            Act::Pause(queue) => {
                self.paused.insert(queue);
                self.h.apply(Command::PauseQueue {
                    tag: ReplyTag(1),
                    queue: name(&format!("q{queue}")),
                    reason: name("test"),
                });
            }
            Act::Resume(queue) => {
                self.paused.remove(&queue);
                self.h.apply(Command::ResumeQueue {
                    tag: ReplyTag(1),
                    queue: name(&format!("q{queue}")),
                });
            }
            Act::Come => return self.come(),
        }
        self.see();
    }
}

fn weights() -> impl Strategy<Value = [u32; QUEUES]> {
    let weight = prop_oneof![4 => 1..5u32, 1 => 1..1001u32];
    [weight.clone(), weight.clone(), weight.clone(), weight]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_queue_is_ahead_of_its_share(
        weights in weights(),
        slots in 1..12u32,
        acts in proptest::collection::vec(acts(), 1..60),
    ) {
        let mut world = World::new(weights, slots);
        for act in acts {
            world.act(act);
        }
        (0..QUEUES).for_each(|queue| world.act(Act::Resume(queue)));
        while !world.running.is_empty() {
            world.act(Act::End(100));
        }
        prop_assert!(world.waiting.is_empty());
    }
}

fn order(h: &mut Harness, effects: &[Effect], count: usize) -> String {
    let mut running: VecDeque<_> = attempts(effects, WORKER).into();
    let mut order: Vec<TaskId> = running.iter().map(|attempt| attempt.task).collect();
    while order.len() < count {
        let attempt = running.pop_front().expect("something runs");
        let effects = h.succeed(WORKER, &attempt);
        running.extend(attempts(&effects, WORKER));
        order.extend(
            attempts(&effects, WORKER)
                .iter()
                .map(|attempt| attempt.task),
        );
    }
    let method = |id: &TaskId| h.view(*id).method;
    order.iter().map(|id| method(id)[6..7].to_owned()).collect()
}

#[test]
fn starts_go_by_weight_whatever_waits() {
    let mut h = Harness::with_policies(config(), policies([1, 3, 1, 1]));
    h.submit(vec![task(METHODS[0].0); 500]);
    h.submit(vec![task(METHODS[2].0); 30]);
    h.submit(vec![task(METHODS[3].0); 5]);
    let methods = METHODS.map(|(method, _)| method);
    let effects = h.attach(WORKER, "w1", &methods, 1);
    assert_eq!(order(&mut h, &effects, 15), "ABCBBABCBBABCBB");
}

#[test]
fn a_weight_that_changes_holds_at_once() {
    let mut h = Harness::with_policies(config(), policies([1, 1, 1, 1]));
    h.submit(vec![task(METHODS[0].0); 500]);
    h.submit(vec![task(METHODS[2].0); 500]);
    h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: policies([4, 1, 1, 1]),
    });
    let methods = METHODS.map(|(method, _)| method);
    let effects = h.attach(WORKER, "w1", &methods, 1);
    let order = order(&mut h, &effects, 50);
    assert_eq!(order.matches('A').count(), 40);
}

#[test]
fn a_method_that_moves_to_another_queue_has_its_share() {
    let mut h = Harness::with_policies(config(), policies([1, 1, 1, 1]));
    let methods = METHODS.map(|(method, _)| method);
    h.submit(vec![task(METHODS[0].0); 50]);
    h.submit(vec![task(METHODS[2].0); 50]);
    h.submit(vec![task(METHODS[3].0); 50]);
    let effects = h.attach(WORKER, "w1", &methods, 1);
    let mut moved = policies([1, 1, 1, 1]);
    moved[3].queue = name("q1");
    h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: moved,
    });
    // What began before is the first two.
    let order = &order(&mut h, &effects, 42)[2..];
    let counts = ["A", "B", "C"].map(|queue| order.matches(queue).count());
    assert!(
        (19..=21).contains(&counts[0]),
        "half of the starts: {order}"
    );
    assert!(
        counts[1] > 5 && counts[2] > 5,
        "its methods take turns: {order}"
    );
}
