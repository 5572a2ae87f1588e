//! Shares that change while more waits than one step looks at: whatever part a task is in, it goes where the newest
//! share says, and none is forgotten.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Limits, MethodPolicy};
use plait_broker_core::split::{Split, Sticky, place_of};
use plait_broker_core::weight::Weights;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const WORKERS: [ConnId; 2] = [ConnId(20), ConnId(30)];
const SALT: &str = "r";
/// More than two steps look at.
const BACKLOG: usize = 10_000;
const SLOTS: u32 = 40;
/// Of a method whose keys take turns: of each key one task stands in a list, so more than two steps look at here, too.
const KEYS: usize = 9_000;

#[derive(Clone, Debug)]
enum Act {
    /// Another share, and steps after it before anything else happens.
    Share(u32, usize),
    /// What is due at once.
    Tick,
    Submit(usize),
    /// Tasks of the backlog from one on.
    Cancel(usize, usize),
    /// Attempts of one of the workers.
    End(usize, usize),
    /// A worker has room for more than a step looks at, and another share.
    Grow(usize, u32, u32),
    /// Another share, and weights of some keys, from one on, in place of all others; of none: the last weight goes.
    Weigh(u32, usize, usize, u32),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..10_000u32, 0..3usize).prop_map(|(share, steps)| Act::Share(share, steps)),
        3 => Just(Act::Tick),
        1 => (1..300usize).prop_map(Act::Submit),
        // Also the first and the last of the lists.
        2 => (prop_oneof![Just(0), 0..BACKLOG, Just(BACKLOG - 1)], 1..200usize)
            .prop_map(|(from, count)| Act::Cancel(from, count)),
        3 => (0..2usize, 1..SLOTS as usize).prop_map(|(worker, count)| Act::End(worker, count)),
        1 => (0..2usize, 2_000..4_000u32, 1..10_000u32)
            .prop_map(|(worker, slots, share)| Act::Grow(worker, slots, share)),
        3 => (1..10_000u32, 0..KEYS, prop_oneof![1 => Just(0), 5 => 1..KEYS], 1..1_000u32)
            .prop_map(|(share, from, count, weight)| Act::Weigh(share, from, count, weight)),
    ]
}

fn key(number: usize) -> Arc<str> {
    name(&format!("t{number}"))
}

struct World {
    h: Harness,
    /// Keys take turns.
    keyed: bool,
    share: u32,
    accepted: Vec<TaskId>,
    running: [BTreeMap<TaskId, Token>; 2],
    ended: BTreeSet<TaskId>,
}

impl World {
    fn new(keyed: bool) -> Self {
        let policy = MethodPolicy {
            limits: Limits {
                fair_by_key: keyed,
                ..Limits::default()
            },
            ..policy(METHOD)
        };
        let mut world = Self {
            h: Harness::with_policies(config(), vec![policy]),
            keyed,
            share: 0,
            accepted: Vec::new(),
            running: Default::default(),
            ended: BTreeSet::new(),
        };
        for (version, conn) in (1..).zip(WORKERS) {
            world.apply(Command::WorkerAttached(WorkerAttach {
                conn,
                worker: format!("w{version}").into(),
                version: format!("{version}").into(),
                methods: vec![METHOD.into()],
                slots: SLOTS,
                held: Vec::new(),
            }));
        }
        world.set(5_000);
        world
    }

    /// Every attempt that begins is on the side that the newest share says.
    fn apply(&mut self, command: Command) {
        let effects = self.h.apply(command);
        for (side, conn) in WORKERS.into_iter().enumerate() {
            for attempt in attempts(&effects, conn) {
                let place = place_of(SALT, &attempt.task.0.to_le_bytes());
                assert_eq!(usize::from(place < self.share), side, "{}", attempt.task.0);
                self.running[side].insert(attempt.task, attempt.token);
            }
        }
    }

    fn set(&mut self, share: u32) {
        self.share = share;
        let split = Split {
            service: "shop.v1.Orders".into(),
            version: "2".into(),
            share,
            sticky: Sticky::Task,
            salt: SALT.into(),
            fallback_ms: 10_000,
        };
        self.apply(Command::SetSplits {
            tag: ReplyTag(1),
            splits: vec![split],
            record: Bytes::new(),
        });
    }

    fn submit(&mut self, count: usize) {
        let options = |at: usize| SubmitOptions {
            priority: Some((at % 3) as u8 + 3),
            ..SubmitOptions::default()
        };
        let first = self.accepted.len() as u64 + 1;
        self.accepted.extend((first..).map(TaskId).take(count));
        self.h.sequence += 1;
        let origin = SubmitOrigin::Session {
            conn: CLIENT,
            session: SESSION,
            sequence: self.h.sequence,
        };
        let key = |at: u64| self.keyed.then(|| key(at as usize % KEYS));
        let tasks = (0..count)
            .map(|at| SubmitTask {
                limit_key: key(first + at as u64),
                ..with(task(METHOD), options(at))
            })
            .collect();
        self.apply(Command::Submit(Submit {
            origin,
            await_results: false,
            tasks,
        }));
    }

    fn is_due(&self) -> bool {
        self.h
            .partition
            .next_timer()
            .is_some_and(|at| at <= self.h.now)
    }

    fn tick(&mut self) {
        if self.is_due() {
            self.apply(Command::Tick);
        }
    }

    fn cancel(&mut self, task: TaskId) {
        let runs = self.running.iter().any(|own| own.contains_key(&task));
        if !runs && self.ended.insert(task) {
            self.apply(Command::Cancel {
                tag: ReplyTag(2),
                task,
                reason: "test".into(),
            });
        }
    }

    fn end(&mut self, side: usize, count: usize) {
        let mut outcomes = Vec::new();
        while let Some((task, token)) = self.running[side].pop_first() {
            assert!(self.ended.insert(task), "{} ran twice", task.0);
            outcomes.push(Outcome {
                task,
                token,
                result: Ok(Bytes::new()),
            });
            if outcomes.len() == count {
                break;
            }
        }
        self.h.outcome_sequence += 1;
        self.apply(Command::Outcomes {
            conn: WORKERS[side],
            sequence: self.h.outcome_sequence,
            outcomes,
        });
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Share(share, steps) => {
                self.set(share);
                (0..steps).for_each(|_| self.tick());
            }
            Act::Tick => self.tick(),
            Act::Submit(count) => self.submit(count),
            Act::Cancel(from, count) => {
                let some = self.accepted[from..].iter().take(count);
                some.copied()
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|id| self.cancel(id));
            }
            Act::End(side, count) => self.end(side, count),
            Act::Grow(side, slots, share) => {
                self.set(share);
                let conn = WORKERS[side];
                self.apply(Command::WorkerResized { conn, slots });
            }
            Act::Weigh(share, from, count, weight) => {
                self.set(share);
                let keys = (from..KEYS).take(count);
                self.apply(Command::SetWeights {
                    tag: ReplyTag(3),
                    method: name(METHOD),
                    weights: Weights::new(keys.map(|at| (key(at), weight))),
                    record: Bytes::new(),
                });
            }
        }
    }

    fn finish(&mut self) {
        while self.is_due() {
            self.tick();
        }
        while self.running.iter().any(|own| !own.is_empty()) {
            for side in 0..2 {
                self.end(side, usize::MAX);
            }
        }
        assert_eq!(self.ended.len(), self.accepted.len(), "tasks are forgotten");
    }
}

#[test]
fn a_share_is_set_in_parts() {
    let mut world = World::new(false);
    world.submit(BACKLOG);
    assert!(!world.is_due());
    world.set(2_500);
    let mut steps = 1;
    while world.is_due() {
        world.tick();
        steps += 1;
    }
    assert!((3..6).contains(&steps), "{steps} steps");
    // Each side has what it has room for.
    assert!(world.running.iter().all(|own| own.len() >= SLOTS as usize));
    world.finish();
}

#[test]
fn a_split_that_ends_while_parts_are_left_leaves_nothing_apart() {
    let mut world = World::new(false);
    world.submit(BACKLOG);
    world.set(2_500);
    let effects = world.h.apply(Command::SetSplits {
        tag: ReplyTag(1),
        splits: Vec::new(),
        record: Bytes::new(),
    });
    let mut begun: usize = WORKERS
        .map(|conn| attempts(&effects, conn).len())
        .iter()
        .sum();
    begun += world.running.iter().map(BTreeMap::len).sum::<usize>();
    for _ in 0..10 {
        begun += attempts(&world.h.apply(Command::Tick), WORKERS[0]).len();
    }
    assert!(!world.is_due());
    let all = world.h.apply(Command::WorkerResized {
        conn: WORKERS[0],
        slots: 2 * BACKLOG as u32,
    });
    assert_eq!(begun + attempts(&all, WORKERS[0]).len(), BACKLOG);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tasks_go_where_the_newest_share_says(
        keyed: bool,
        acts in proptest::collection::vec(acts(), 1..40),
    ) {
        let mut world = World::new(keyed);
        world.submit(BACKLOG);
        for act in acts {
            world.act(act);
        }
        world.finish();
    }
}
