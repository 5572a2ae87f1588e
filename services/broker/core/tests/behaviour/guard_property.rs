//! The guard against starvation against an independent account of it: what begins is of the highest priority that has
//! anything to begin, but for the one start of sixteen that is owed to the others.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Limits, MethodPolicy};
use plait_broker_core::record::Record;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const EVERY: u64 = 16;
const PRIORITIES: u64 = 10;
const LIMITED: &str = "/shop.v1.Orders/Ship";
const METHODS: [&str; 3] = [METHOD, OTHER, LIMITED];
/// Of all methods, and of all but the second.
const WORKERS: [(ConnId, &str, &[&str]); 2] = [
    (WORKER, "w1", &METHODS),
    (ConnId(3), "w2", &[METHOD, LIMITED]),
];
const RUNNING_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Act {
    Submit(usize, usize, u8, Option<u8>),
    End(usize),
    Pause(bool),
    Gate(Option<u32>),
    Restart,
}

fn acts() -> impl Strategy<Value = Act> {
    let key = proptest::option::of(0..3u8);
    let priority = prop_oneof![Just(9), Just(0), 0..PRIORITIES as u8];
    prop_oneof![
        8 => (0..3usize, 1..30usize, priority, key)
            .prop_map(|(method, count, priority, key)| Act::Submit(method, count, priority, key)),
        16 => (1..30usize).prop_map(Act::End),
        1 => any::<bool>().prop_map(Act::Pause),
        1 => proptest::option::of(0..20u32).prop_map(Act::Gate),
        1 => Just(Act::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    method: &'static str,
    priority: u8,
    key: Option<Arc<str>>,
}

/// What a class of workers did, by its starts alone.
#[derive(Debug, Default)]
struct Class {
    passed: u64,
    turns: u64,
    /// The turn that each priority had last.
    last: [u64; PRIORITIES as usize],
    /// Starts since which the first of a list waits that could have begun at each of them.
    waits: BTreeMap<(&'static str, u8), u64>,
}

impl Class {
    /// Holds a start to the rule, given what could have begun in its place.
    fn judge(&mut self, start: &Entry, lists: &BTreeSet<(&'static str, u8)>) {
        let own = (start.method, start.priority);
        assert!(lists.contains(&own), "{own:?} may not begin: {lists:?}");
        let top = lists.iter().map(|(_, priority)| *priority).max();
        let top = top.expect("its own");
        let lower = lists.iter().map(|(_, priority)| *priority);
        let lower: BTreeSet<u8> = lower.filter(|priority| *priority < top).collect();
        if start.priority == top {
            self.passed += u64::from(!lower.is_empty());
            assert!(self.passed < EVERY, "nobody lower had a turn: {self:?}");
        } else {
            let since = |priority: &u8| (self.last[usize::from(*priority)], *priority);
            let next = lower.into_iter().min_by_key(since);
            assert_eq!(
                (Some(start.priority), self.passed),
                (next, EVERY - 1),
                "strict priority but for the turn that is owed: {self:?}"
            );
            self.passed = 0;
            self.turns += 1;
            self.last[usize::from(start.priority)] = self.turns;
        }
        self.waits
            .retain(|list, _| lists.contains(list) && *list != own);
        for list in lists.iter().filter(|list| **list != own) {
            let wait = self.waits.entry(*list).or_default();
            *wait += 1;
            // Each lower priority in turn, and within it each method.
            let most = EVERY * (PRIORITIES - 1) * METHODS.len() as u64;
            assert!(*wait <= most, "{list:?} waits: {self:?}");
        }
    }
}

struct World {
    h: Harness,
    waiting: BTreeMap<TaskId, Entry>,
    running: BTreeMap<TaskId, (Entry, usize, Token)>,
    classes: [Class; 2],
    slots: [u32; 2],
    paused: bool,
    gate: Option<u32>,
    taken: usize,
}

impl World {
    fn new(slots: [u32; 2]) -> Self {
        let limits = Limits {
            running_max: RUNNING_MAX as u32,
            running_per_key_max: 1,
            ..Limits::default()
        };
        let limited = MethodPolicy {
            limits,
            ..policy(LIMITED)
        };
        let other = MethodPolicy {
            queue: "others".into(),
            ..policy(OTHER)
        };
        let h = Harness::with_policies(config(), vec![policy(METHOD), other, limited]);
        let mut world = Self {
            taken: h.log.len(),
            h,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            classes: Default::default(),
            slots,
            paused: false,
            gate: None,
        };
        world.attach();
        world
    }

    fn attach(&mut self) {
        for (at, (conn, name, methods)) in WORKERS.into_iter().enumerate() {
            let own = self
                .running
                .iter()
                .filter(|(_, (_, worker, _))| *worker == at);
            let held = own.map(|(id, (.., token))| (*id, *token)).collect();
            self.h
                .attach_with(conn, name, methods, self.slots[at], held);
            self.see();
        }
    }

    /// Takes in what happened: what was ended and submitted first, then the starts in the order of their tokens.
    fn see(&mut self) {
        let mut starts = Vec::new();
        let records = self.h.log[self.taken..].to_vec();
        self.taken = self.h.log.len();
        for (_, record) in records {
            match record {
                Record::Submitted { tasks, .. } => {
                    for task in tasks {
                        let method = METHODS.into_iter().find(|name| **name == *task.method);
                        let entry = Entry {
                            method: method.expect("one of them"),
                            priority: task.priority,
                            key: task.ordering_key.or(task.limit_key),
                        };
                        self.waiting.insert(task.id, entry);
                    }
                }
                Record::Succeeded { tasks } => {
                    tasks
                        .iter()
                        .for_each(|(id, _)| drop(self.running.remove(id)));
                }
                Record::Started {
                    worker,
                    starts: own,
                } => {
                    let at = usize::from(&*worker == "w2");
                    starts.extend(own.into_iter().map(|start| (start.token, start.task, at)));
                }
                _ => {}
            }
        }
        starts.sort_unstable();
        starts
            .into_iter()
            .for_each(|(token, task, at)| self.started(token, task, at));
    }

    fn started(&mut self, token: Token, task: TaskId, at: usize) {
        let served = WORKERS[at].2;
        let may = |(id, entry): (&TaskId, &Entry)| {
            let may = served.contains(&entry.method) && self.may_start(*id, entry);
            may.then_some((entry.method, entry.priority))
        };
        let lists = self.waiting.iter().filter_map(may).collect();
        let entry = &self.waiting[&task];
        assert!(self.may_start(task, entry), "{task} begins: {entry:?}");
        self.classes[at].judge(entry, &lists);
        let entry = self.waiting.remove(&task).expect("it waited");
        if let Some(left) = self.gate.as_mut().filter(|_| entry.method == METHOD) {
            *left -= 1;
        }
        self.running.insert(task, (entry, at, token));
    }

    fn may_start(&self, id: TaskId, entry: &Entry) -> bool {
        let running = self.running.values().map(|(entry, ..)| entry);
        let running: Vec<&Entry> = running
            .filter(|other| other.method == entry.method)
            .collect();
        let key_runs = running.iter().any(|other| other.key == entry.key);
        match entry.method {
            METHOD => self.gate != Some(0),
            LIMITED => running.len() < RUNNING_MAX && !key_runs,
            _ if entry.key.is_none() => !self.paused,
            _ => {
                let mut before = self.waiting.range(..id);
                let waits =
                    before.any(|(_, other)| other.method == OTHER && other.key == entry.key);
                !self.paused && !key_runs && !waits
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Submit(method, count, priority, key) => {
                let key: Option<Arc<str>> = key.map(|key| format!("k{key}").into());
                let options = SubmitOptions {
                    priority: Some(priority),
                    ..SubmitOptions::default()
                };
                let mut task = with(task(METHODS[method]), options);
                task.limit_key = key.clone().filter(|_| METHODS[method] == LIMITED);
                task.ordering_key = key.filter(|_| METHODS[method] == OTHER);
                self.h.submit(vec![task; count]);
            }
            Act::End(count) => return self.end(count),
            Act::Pause(true) => self.pause(),
            Act::Pause(false) => self.resume(),
            Act::Gate(permits) => self.set_gate(permits),
            Act::Restart => {
                self.h.restart();
                self.gate = None;
                self.classes = Default::default();
                self.h.apply(Command::SessionOpened {
                    conn: CLIENT,
                    session: SESSION,
                });
                return self.attach();
            }
        }
        self.see();
    }

    fn end(&mut self, count: usize) {
        for _ in 0..count {
            let Some((id, (_, at, token))) = self.running.iter().next() else {
                return;
            };
            let (id, conn, token) = (*id, WORKERS[*at].0, *token);
            self.h.outcome(conn, id, token, Ok(bytes::Bytes::new()));
            self.see();
        }
    }

    fn pause(&mut self) {
        self.paused = true;
        self.h.apply(Command::PauseQueue {
            tag: ReplyTag(1),
            queue: "others".into(),
            reason: "test".into(),
        });
    }

    fn resume(&mut self) {
        self.paused = false;
        self.h.apply(Command::ResumeQueue {
            tag: ReplyTag(1),
            queue: "others".into(),
        });
    }

    fn set_gate(&mut self, permits: Option<u32>) {
        self.gate = permits;
        self.h.apply(Command::SetGates {
            tag: ReplyTag(2),
            gates: vec![Gate {
                method: METHOD.into(),
                permits,
                valid_ms: 1_000_000,
            }],
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn priorities_are_strict_but_for_one_start_of_sixteen(
        slots in (1..6u32, 1..40u32),
        acts in proptest::collection::vec(acts(), 1..80),
    ) {
        let mut world = World::new([slots.0, slots.1]);
        for act in acts {
            world.act(act);
        }
        world.act(Act::Gate(None));
        world.act(Act::Pause(false));
        while !world.running.is_empty() {
            world.end(100);
        }
        prop_assert!(world.waiting.is_empty());
    }
}
