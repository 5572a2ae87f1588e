//! Latency classes against an independent account of them: nothing lower takes what is kept for others, what could
//! begin has begun, and what is highest never waits while there is room.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Latency, MethodPolicy};
use plait_broker_core::record::Record;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const METHODS: [&str; 3] = ["/s.v1.S/Low", "/s.v1.S/Usual", "/s.v1.S/High"];
/// The methods that each worker serves; the first two are one class of workers.
const SERVED: [&[usize]; 4] = [&[0, 1, 2], &[0, 1, 2], &[0, 2], &[0, 1]];

#[derive(Clone, Debug)]
enum Act {
    Submit(usize, usize),
    End(usize),
    Resize(usize, u32),
    Window(usize, u32),
    Leave(usize),
    Come(usize, u32),
}

fn acts() -> impl Strategy<Value = Act> {
    let worker = 0..SERVED.len();
    prop_oneof![
        6 => (0..3usize, 1..20usize).prop_map(|(method, count)| Act::Submit(method, count)),
        12 => (1..10usize).prop_map(Act::End),
        1 => (worker.clone(), 1..12u32).prop_map(|(at, slots)| Act::Resize(at, slots)),
        1 => (worker.clone(), 1..24u32).prop_map(|(at, window)| Act::Window(at, window)),
        1 => worker.clone().prop_map(Act::Leave),
        1 => (worker, 1..12u32).prop_map(|(at, slots)| Act::Come(at, slots)),
    ]
}

#[derive(Clone, Debug, Default)]
struct Worker {
    slots: u32,
    window: Option<u32>,
    running: BTreeMap<TaskId, (usize, Token)>,
}

impl Worker {
    fn window(&self) -> u32 {
        self.window.unwrap_or(u32::MAX).clamp(1, 2 * self.slots)
    }

    fn slots(&self) -> usize {
        self.slots.min(self.window()) as usize
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.window() as usize
    }
}

struct World {
    h: Harness,
    waiting: BTreeMap<TaskId, usize>,
    workers: [Option<Worker>; SERVED.len()],
    /// For each class of workers the starts that passed over something lower since that had its turn.
    passed: BTreeMap<&'static [usize], usize>,
    /// That of the class that went last, for the one that comes next.
    left: usize,
    taken: usize,
}

impl World {
    fn new() -> Self {
        let policies = METHODS.into_iter().zip(Latency::ALL);
        let policies = policies.map(|(method, latency)| MethodPolicy {
            latency,
            ..policy(method)
        });
        let h = Harness::with_policies(config(), policies.collect());
        Self {
            taken: h.log.len(),
            h,
            waiting: BTreeMap::new(),
            workers: Default::default(),
            passed: BTreeMap::new(),
            left: 0,
        }
    }

    fn class(&self, at: usize) -> impl Iterator<Item = &Worker> {
        let own = SERVED[at];
        let pairs = self.workers.iter().zip(SERVED);
        pairs.filter_map(move |(worker, served)| worker.as_ref().filter(|_| served == own))
    }

    /// Whether one more of a method leaves what is kept from it and from those between it and the highest.
    fn leaves(&self, at: usize, method: usize) -> bool {
        let slots: usize = self.class(at).map(Worker::slots).sum();
        let classes = SERVED[at].iter().filter(|class| **class >= method);
        classes.clone().all(|class| {
            let higher = SERVED[at].iter().filter(|other| *other > class).count();
            let kept = (slots / 4).max(1) * higher;
            let running = self.class(at).flat_map(|worker| worker.running.values());
            let below = running.filter(|(other, _)| other <= class).count();
            higher == 0 || below < slots.saturating_sub(kept).max(1)
        })
    }

    fn see(&mut self) {
        let records = self.h.log[self.taken..].to_vec();
        self.taken = self.h.log.len();
        let mut starts = Vec::new();
        for (_, record) in records {
            match record {
                Record::Submitted { tasks, .. } => {
                    for task in tasks {
                        let at = METHODS.iter().position(|name| **name == *task.method);
                        self.waiting.insert(task.id, at.expect("one of them"));
                    }
                }
                Record::Started {
                    worker,
                    starts: own,
                } => {
                    let at: usize = worker[1..].parse().expect("its number");
                    starts.extend(own.into_iter().map(|start| (start.token, start.task, at)));
                }
                _ => {}
            }
        }
        starts.sort_unstable();
        starts
            .into_iter()
            .for_each(|(token, task, at)| self.started(token, task, at));
        self.check_rest();
    }

    fn started(&mut self, token: Token, task: TaskId, at: usize) {
        let method = self.waiting[&task];
        let startable: BTreeSet<usize> = self.waiting.values().copied().collect();
        let startable = startable
            .into_iter()
            .filter(|other| SERVED[at].contains(other) && self.leaves(at, *other));
        let startable: BTreeSet<usize> = startable.collect();
        assert!(startable.contains(&method), "{method} takes what is kept");
        let top = *startable.last().expect("its own");
        let worker = self.workers[at].as_ref().expect("it is there");
        assert!(worker.has_room());
        let free = |worker: &Worker| worker.running.len() < worker.slots();
        let waits = !free(worker) && self.class(at).any(free);
        assert!(
            !waits || SERVED[at].len() == 1,
            "{method} waits beside a free slot"
        );
        let owed = *self.passed.entry(SERVED[at]).or_default() == 15;
        if method == top {
            let lower = SERVED[at].last() != Some(&method);
            assert!(free(worker) || !lower, "{method} is given ahead");
            assert!(
                !owed || startable.len() == 1,
                "somebody lower is owed a turn"
            );
            *self.passed.entry(SERVED[at]).or_default() += usize::from(startable.len() > 1);
        } else {
            assert!(owed, "{method} begins before {top}");
            self.passed.insert(SERVED[at], 0);
        }
        self.waiting.remove(&task);
        let worker = self.workers[at].as_mut().expect("it is there");
        worker.running.insert(task, (method, token));
    }

    /// Nothing that could begin waits.
    fn check_rest(&self) {
        let waiting: BTreeSet<usize> = self.waiting.values().copied().collect();
        for (at, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            for method in waiting.iter().filter(|method| SERVED[at].contains(method)) {
                let highest = SERVED[at].last() == Some(method);
                let free = worker.running.len() < worker.slots();
                let may = worker.has_room() && (highest || free && self.leaves(at, *method));
                assert!(!may, "{method} waits for w{at}: {worker:?}");
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Submit(method, count) => {
                self.h.submit(vec![task(METHODS[method]); count]);
            }
            Act::End(count) => return self.end(count),
            Act::Resize(at, slots) => {
                if let Some(worker) = &mut self.workers[at] {
                    worker.slots = slots;
                    let conn = conn(at);
                    self.h.apply(Command::WorkerResized { conn, slots });
                }
            }
            Act::Window(at, window) => {
                if let Some(worker) = &mut self.workers[at] {
                    worker.window = Some(window);
                    self.h.apply(Command::SetWindows {
                        tag: ReplyTag(1),
                        windows: vec![(name(&format!("w{at}")), window)],
                    });
                }
            }
            Act::Leave(at) => self.leave(at),
            Act::Come(at, slots) => {
                if self.workers[at].is_none() {
                    let left = &mut self.left;
                    let passed = self.passed.entry(SERVED[at]);
                    passed.or_insert_with(|| std::mem::take(left));
                    self.workers[at] = Some(Worker {
                        slots,
                        ..Worker::default()
                    });
                    let served: Vec<&str> = SERVED[at].iter().map(|m| METHODS[*m]).collect();
                    self.h.attach(conn(at), &format!("w{at}"), &served, slots);
                }
            }
        }
        self.see();
    }

    /// A worker ends what it has and goes.
    fn leave(&mut self, at: usize) {
        let Some(worker) = self.workers[at].take() else {
            return;
        };
        self.h.apply(Command::WorkerDraining { conn: conn(at) });
        self.see();
        for (id, (_, token)) in worker.running {
            self.h.outcome(conn(at), id, token, Ok(bytes::Bytes::new()));
        }
        self.h.apply(Command::WorkerDetached {
            conn: conn(at),
            reason: name(""),
        });
        if self.class(at).next().is_none() {
            self.left = self.passed.remove(SERVED[at]).unwrap_or(0);
        }
    }

    fn end(&mut self, count: usize) {
        for _ in 0..count {
            let workers = self.workers.iter_mut().enumerate();
            let busy = workers.filter_map(|(at, worker)| Some((at, worker.as_mut()?)));
            let ended = busy.filter_map(|(at, worker)| {
                let id = *worker.running.keys().next()?;
                Some((at, worker, id))
            });
            let Some((at, worker, id)) = ended.min_by_key(|(.., id)| *id) else {
                return;
            };
            let (_, token) = worker.running.remove(&id).expect("it runs");
            self.h.outcome(conn(at), id, token, Ok(bytes::Bytes::new()));
            self.see();
        }
    }
}

fn conn(at: usize) -> ConnId {
    ConnId(10 + at as u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_kept_is_free_and_nothing_else_is(acts in proptest::collection::vec(acts(), 1..80)) {
        let mut world = World::new();
        world.act(Act::Come(0, 4));
        for act in acts {
            world.act(act);
        }
        for at in 0..SERVED.len() {
            world.act(Act::Come(at, 2));
        }
        while world.workers.iter().flatten().any(|worker| !worker.running.is_empty()) {
            world.end(100);
        }
        prop_assert!(world.waiting.is_empty());
    }
}
