//! Workers: they accept, finish, fail, hand back, suspend, drain, vanish, come back, and lie.

use super::super::policies::{FLOW, METHODS, ONCE, PLAIN};
use super::{World, ending};
use plait_broker_core::command::*;
use plait_broker_core::effect::{Attempt, Effect};
use plait_broker_core::ids::*;

/// An attempt that a worker received.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) task: TaskId,
    pub(super) token: Token,
    pub(super) flow: bool,
    method: String,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) conn: Option<ConnId>,
    pub(super) methods: Vec<String>,
    pub(super) draining: bool,
    received: u64,
    outcomes: u64,
    pub(super) held: Vec<Held>,
    /// Attempts that were settled, or lost: to lie with.
    old: Vec<Held>,
}

impl World {
    pub(super) fn attach_new(&mut self, name: &str, methods: &[&str], slots: u32) {
        let conn = self.conn();
        self.workers.push(Worker {
            name: name.to_owned(),
            conn: Some(conn),
            methods: methods.iter().map(ToString::to_string).collect(),
            draining: false,
            received: 0,
            outcomes: 0,
            held: Vec::new(),
            old: Vec::new(),
        });
        self.attach(conn, name, methods, slots, Vec::new());
    }

    fn attach(
        &mut self,
        conn: ConnId,
        name: &str,
        methods: &[&str],
        slots: u32,
        held: Vec<(TaskId, Token)>,
    ) {
        let methods = methods.iter().map(|method| (*method).into()).collect();
        let worker = name.into();
        self.command(Command::WorkerAttached(WorkerAttach {
            conn,
            worker,
            methods,
            slots,
            held,
        }));
    }

    pub(super) fn detach(&mut self, at: usize) {
        if let Some(conn) = self.workers[at].conn.take() {
            self.command(Command::WorkerDetached {
                conn,
                reason: "model".into(),
            });
        }
    }

    pub(super) fn worker_comes_or_goes(&mut self) {
        let some = self.random.index(self.workers.len());
        match (self.random.below(10), some) {
            (0..3, Some(at)) => self.detach(at),
            (3..7, Some(at)) => self.come_back(at),
            (7, Some(at)) if self.workers.len() > 6 => {
                self.detach(at);
                self.workers.remove(at);
            }
            _ if self.workers.len() < 8 => {
                let name = format!("w{}", self.next_conn);
                let sets: [&[&str]; 4] = [&METHODS, &[FLOW], &[PLAIN, ONCE], &[ONCE, PLAIN]];
                let methods = sets[self.random.below(4) as usize];
                let slots = 1 + self.random.below(6) as u32;
                self.attach_new(&name, methods, slots);
            }
            _ => {}
        }
    }

    /// A worker connects anew, perhaps while its old stream still lives, with what it holds, or some of it.
    fn come_back(&mut self, at: usize) {
        let conn = self.conn();
        let share = if self.random.permille(800) { 1000 } else { 500 };
        let held: Vec<Held> = self.workers[at].held.clone();
        let held: Vec<Held> = held
            .into_iter()
            .filter(|_| self.random.permille(share))
            .collect();
        let brought = held.iter().map(|held| (held.task, held.token)).collect();
        let worker = &mut self.workers[at];
        worker.conn = Some(conn);
        worker.draining = false;
        worker.received = 0;
        let lost = std::mem::replace(&mut worker.held, held);
        worker.old.extend(lost);
        let (name, methods) = (worker.name.clone(), worker.methods.clone());
        let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
        let slots = 1 + self.random.below(6) as u32;
        self.attach(conn, &name, &methods, slots, brought);
    }

    pub(super) fn deliver_to_worker(&mut self, effect: Effect) {
        let conn = match &effect {
            Effect::Attempts { conn, .. }
            | Effect::Stop { conn, .. }
            | Effect::WorkerWelcome { conn, .. }
            | Effect::WorkerClosed { conn, .. } => *conn,
            _ => return,
        };
        let workers = &mut self.workers;
        let Some(worker) = workers.iter_mut().find(|worker| worker.conn == Some(conn)) else {
            return;
        };
        match effect {
            Effect::Attempts {
                sequence, attempts, ..
            } => {
                assert_eq!(sequence, worker.received + 1, "frames are numbered");
                worker.received = sequence;
                worker.receive(&attempts);
            }
            Effect::Stop { entries, .. } => {
                for (task, token, _) in entries {
                    worker.lose(task, token);
                }
            }
            Effect::WorkerWelcome { lost, .. } => {
                for (task, token) in lost {
                    worker.lose(task, token);
                }
            }
            _ => worker.conn = None,
        }
    }

    pub(super) fn worker_acts(&mut self) {
        let Some(at) = self.random.index(self.workers.len()) else {
            return;
        };
        let Some(conn) = self.workers[at].conn else {
            return;
        };
        let received = self.workers[at].received;
        match self.random.below(20) {
            0..5 => self.command(Command::WorkerAccepted {
                conn,
                sequence: received,
            }),
            5..14 => self.some_outcomes(at, conn),
            14 => {
                let leases = self.some_leases(at);
                self.command(Command::HandBack { conn, leases });
            }
            15 | 16 => {
                let flows = self.workers[at].held.iter().filter(|held| held.flow);
                let leases = flows.map(|held| (held.task, held.token)).take(1).collect();
                self.command(Command::Suspend { conn, leases });
            }
            17 => {
                self.workers[at].draining = true;
                self.command(Command::WorkerDraining { conn });
            }
            18 => {
                let slots = 1 + self.random.below(6) as u32;
                self.command(Command::WorkerResized { conn, slots });
                let windows = vec![(self.workers[at].name.as_str().into(), slots)];
                self.command(Command::SetWindows {
                    tag: ReplyTag(2),
                    windows,
                });
                let gate = WorkerGate {
                    worker: self.workers[at].name.as_str().into(),
                    permits: (slots < 4).then_some(slots - 1),
                    valid_ms: 10_000,
                };
                let (tag, gates) = (ReplyTag(2), vec![gate]);
                self.command(Command::SetWorkerGates { tag, gates });
            }
            _ => {
                let leases = self.some_leases(at);
                let entry = |(task, token): (TaskId, Token)| (task, token, 0.5, "half".into());
                let entries = leases.into_iter().map(entry).collect();
                self.command(Command::Progress { conn, entries });
            }
        }
    }

    fn some_leases(&self, at: usize) -> Vec<(TaskId, Token)> {
        let worker = &self.workers[at];
        let all = worker.held.iter().chain(&worker.old);
        all.map(|held| (held.task, held.token)).take(3).collect()
    }

    /// Outcomes of what the worker holds, and now and then of what it does not hold any more.
    fn some_outcomes(&mut self, at: usize, conn: ConnId) {
        let mut ended = Vec::new();
        for _ in 0..1 + self.random.below(5) {
            let worker = &mut self.workers[at];
            if let Some(held) = self.random.index(worker.held.len()) {
                ended.push(worker.held.swap_remove(held));
            }
        }
        if self.random.permille(200)
            && let Some(old) = self.workers[at].old.last()
        {
            ended.push(old.clone());
        }
        if self.random.permille(50)
            && let Some(twice) = ended.first().cloned()
        {
            ended.push(twice);
        }
        self.settle(at, conn, ended);
    }

    fn settle(&mut self, at: usize, conn: ConnId, ended: Vec<Held>) {
        if ended.is_empty() {
            return;
        }
        let random = &mut self.random;
        let outcomes = ended.iter().map(|held| Outcome {
            task: held.task,
            token: held.token,
            result: ending(random, &held.method),
        });
        let outcomes = outcomes.collect();
        let worker = &mut self.workers[at];
        worker.outcomes += 1;
        worker.old.extend(ended);
        let sequence = worker.outcomes;
        self.command(Command::Outcomes {
            conn,
            sequence,
            outcomes,
        });
    }

    /// Finishes everything that is held.
    pub(super) fn finish_all(&mut self) {
        for at in 0..self.workers.len() {
            let Some(conn) = self.workers[at].conn else {
                continue;
            };
            let received = self.workers[at].received;
            self.command(Command::WorkerAccepted {
                conn,
                sequence: received,
            });
            let ended = std::mem::take(&mut self.workers[at].held);
            self.settle(at, conn, ended);
        }
    }
}

impl Worker {
    fn receive(&mut self, attempts: &[Attempt]) {
        for attempt in attempts {
            let method = self.methods[attempt.method as usize].clone();
            self.held.push(Held {
                task: attempt.task,
                token: attempt.token,
                flow: method == FLOW,
                method,
            });
        }
    }

    fn lose(&mut self, task: TaskId, token: Token) {
        if let Some(at) = self
            .held
            .iter()
            .position(|h| h.task == task && h.token == token)
        {
            let lost = self.held.remove(at);
            self.old.push(lost);
        }
    }
}
