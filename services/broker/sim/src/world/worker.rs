//! Workers as the protocol wants them, and as they are: slow, late, deaf, repeating themselves, dead.

use super::conns::Peer;
use super::flow::FlowRun;
use super::policies::{FLOW, METHODS, ONCE, PLAIN, POISON};
use super::submit::payload;
use super::{Action, World};
use crate::history::{Digest, Event, Lease, Name, Task};
use crate::points::Point;
use bytes::Bytes;
use plait_broker_core::command::{Command, Outcome, WorkerAttach};
use plait_broker_core::effect::{Attempt, Effect};
use plait_broker_core::ids::{ConnId, TaskId, Token};
use plait_broker_core::record::Failure;
use std::collections::VecDeque;

/// The longest pushback that a handler asks for, ms.
pub(super) const PUSHBACK_MAX: u64 = 600;

/// Silence after which the broker gives a worker up, µs.
const SILENCE: u64 = 900_000;

/// An attempt in a worker.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) task: TaskId,
    pub(super) token: Token,
    attempt: u32,
    method: Name,
    of: Option<u64>,
    begun: bool,
    /// Told to stop, or lost; its handler did not listen.
    zombie: bool,
    pub(super) flow: Option<FlowRun>,
}

/// An outcome until it is settled.
#[derive(Debug, Clone)]
struct Done {
    task: TaskId,
    token: Token,
    result: Result<Bytes, (Failure, Option<u64>)>,
    /// The connection and number of the frame that it went out in last.
    sent: Option<(ConnId, u64)>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: Name,
    methods: Vec<&'static str>,
    version: &'static str,
    slots: u32,
    pub(super) conn: Option<ConnId>,
    welcomed: bool,
    pub(super) runs: Vec<Run>,
    done: Vec<Done>,
    sequence: u64,
    received: u64,
    /// Its client, for children of flows.
    pub(super) client: usize,
    deaf: bool,
    /// What came while it was deaf.
    inbox: VecDeque<(ConnId, Option<Effect>)>,
    draining: bool,
    /// Where it said that it drains: there it begins nothing any more.
    drains: Option<ConnId>,
    pub(super) gone: bool,
    flushing: bool,
}

impl Worker {
    pub(super) fn version(&self) -> &'static str {
        self.version
    }

    /// Whether it may be given tasks, now or when it comes back.
    pub(super) fn is_taking(&self) -> bool {
        !self.gone && !self.draining
    }
}

impl World {
    /// One more worker. A healer has a version, serves everything and has many slots.
    pub(super) fn new_worker(&mut self, healer: Option<&'static str>) -> usize {
        let number = self.workers.len();
        let client = self.new_client(Some(number));
        let sets: [&[&str]; 4] = [&METHODS, &METHODS, &[PLAIN, POISON, FLOW], &[ONCE, PLAIN]];
        let set = if healer.is_some() || number == 0 {
            &METHODS
        } else {
            sets[self.dice.below(4) as usize]
        };
        let version = healer.unwrap_or_else(|| self.some_version());
        self.workers.push(Worker {
            name: format!("w{number}").into(),
            version,
            methods: set.to_vec(),
            slots: if healer.is_some() {
                50
            } else {
                self.dice.range(1, 8) as u32
            },
            conn: None,
            welcomed: false,
            runs: Vec::new(),
            done: Vec::new(),
            sequence: 0,
            received: 0,
            client,
            deaf: false,
            inbox: VecDeque::new(),
            draining: false,
            drains: None,
            gone: false,
            flushing: false,
        });
        self.attach(number);
        number
    }

    pub(super) fn attach(&mut self, worker: usize) {
        if self.workers[worker].gone || self.workers[worker].draining {
            return;
        }
        let conn = self.connect(Peer::Worker(worker));
        let entry = &mut self.workers[worker];
        entry.conn = Some(conn);
        entry.welcomed = false;
        entry.sequence = 0;
        entry.received = 0;
        let running = entry.runs.iter().filter(|run| !run.zombie);
        let running = running.map(|run| (run.task, run.token));
        let done = entry.done.iter().map(|done| (done.task, done.token));
        let mut held: Vec<(TaskId, Token)> = running.chain(done).collect();
        held.dedup();
        let attach = WorkerAttach {
            version: entry.version.into(),
            conn,
            worker: entry.name.clone(),
            methods: entry
                .methods
                .iter()
                .map(|method| (*method).into())
                .collect(),
            slots: entry.slots,
            held,
        };
        if !attach.held.is_empty() {
            self.hit(Point::WorkerReturned);
        }
        self.send_up(conn, Command::WorkerAttached(attach));
    }

    pub(super) fn worker_told(&mut self, worker: usize, conn: ConnId, effect: Effect) {
        let entry = &mut self.workers[worker];
        if entry.conn != Some(conn) {
            return;
        }
        if entry.deaf {
            entry.inbox.push_back((conn, Some(effect)));
            return;
        }
        match effect {
            Effect::WorkerWelcome { lost, .. } => self.welcomed(worker, &lost),
            Effect::Attempts {
                sequence, attempts, ..
            } => self.receive(worker, conn, sequence, attempts),
            Effect::Settled { sequence, .. } => {
                let sent = Some((conn, sequence));
                entry.done.retain(|done| done.sent != sent);
            }
            Effect::Stop { entries, .. } => {
                for (task, token, _) in entries {
                    self.lose(worker, task, token);
                }
            }
            _ => {}
        }
    }

    fn welcomed(&mut self, worker: usize, lost: &[(TaskId, Token)]) {
        let name = self.workers[worker].name.clone();
        self.tell(Event::Attach { worker: name });
        self.workers[worker].welcomed = true;
        for (task, token) in lost {
            self.hit(Point::LeaseLost);
            self.lose(worker, *task, *token);
            let done = &mut self.workers[worker].done;
            done.retain(|done| (done.task, done.token) != (*task, *token));
        }
        if !self.workers[worker].runs.is_empty() {
            self.hit(Point::LeaseKept);
        }
        for done in &mut self.workers[worker].done {
            done.sent = None;
        }
        self.plan_flush(worker);
    }

    fn receive(&mut self, worker: usize, conn: ConnId, sequence: u64, attempts: Vec<Attempt>) {
        self.workers[worker].received = sequence;
        let receipt = self.dice.span(3_000);
        self.after(receipt, Action::Receipt(worker, conn, sequence));
        if self.workers[worker].drains == Some(conn) {
            let leases = attempts.iter().map(|attempt| (attempt.task, attempt.token));
            let leases = leases.collect();
            return self.send_up(conn, Command::HandBack { conn, leases });
        }
        for attempt in attempts {
            let of = attempt
                .request
                .bytes
                .as_deref()
                .and_then(super::submit::number_of);
            let token = attempt.token;
            let methods = &self.workers[worker].methods;
            let method = methods
                .get(attempt.method as usize)
                .copied()
                .unwrap_or(PLAIN);
            self.workers[worker].runs.push(Run {
                task: attempt.task,
                token,
                attempt: attempt.attempt,
                method: method.into(),
                of,
                begun: false,
                zombie: false,
                flow: None,
            });
            if self.dice.permille(150) {
                let delay = self.dice.span(self.plan.handler);
                self.after(delay, Action::Begin(worker, token));
            } else {
                self.begin(worker, token);
            }
        }
    }

    fn run(&mut self, worker: usize, token: Token) -> Option<&mut Run> {
        let entry = &mut self.workers[worker];
        let alive = !entry.gone;
        entry
            .runs
            .iter_mut()
            .find(|run| alive && run.token == token)
    }

    /// A handler starts.
    pub(super) fn begin(&mut self, worker: usize, token: Token) {
        let name = self.workers[worker].name.clone();
        let Some(run) = self.run(worker, token) else {
            return;
        };
        if run.begun || run.zombie {
            return;
        }
        run.begun = true;
        let (lease, flow) = (
            Lease {
                task: Task(run.task.0),
                token: token.0,
                attempt: run.attempt,
                worker: name,
                of: run.of,
                timeout_ms: None,
                broker_at: None,
            },
            &*run.method == FLOW,
        );
        self.tell(Event::Start(lease));
        if flow {
            return self.begin_flow(worker, token);
        }
        let delay = self.dice.span(self.plan.handler);
        let trouble = if self.healing.is_some() {
            999
        } else {
            self.dice.below(1_000)
        };
        match trouble {
            // A handler that never returns.
            0..10 => {}
            10..30 => self.after(delay + 2_500_000, Action::Finish(worker, token)),
            _ => self.after(delay, Action::Finish(worker, token)),
        }
    }

    /// A handler ends.
    pub(super) fn finish(&mut self, worker: usize, token: Token) {
        let failing = match self.run(worker, token).map(|run| run.method.clone()) {
            Some(method) if &*method == POISON => 700,
            Some(method) if &*method == FLOW => self.plan.failing / 4,
            Some(_) if self.healing.is_some() => 0,
            Some(_) => self.plan.failing,
            None => return,
        };
        let result = if self.dice.permille(failing) {
            Err(self.some_failure())
        } else {
            let number = self.dice.number();
            Ok(payload(number, self.plan.payload))
        };
        self.conclude(worker, token, result);
    }

    fn some_failure(&mut self) -> (Failure, Option<u64>) {
        let code = if self.dice.permille(850) { 14 } else { 3 };
        let pushback = match self.dice.below(20) {
            0..2 => Some(self.dice.below(PUSHBACK_MAX)),
            2 => Some(u64::MAX),
            _ => None,
        };
        let failure = Failure {
            code,
            message: "the handler says so".into(),
            details: Bytes::from_static(b"details"),
            ..Failure::default()
        };
        (failure, pushback)
    }

    /// The end of a handler is told, and kept until it is settled.
    pub(super) fn conclude(
        &mut self,
        worker: usize,
        token: Token,
        result: Result<Bytes, (Failure, Option<u64>)>,
    ) {
        let entry = &mut self.workers[worker];
        let Some(at) = entry.runs.iter().position(|run| run.token == token) else {
            return;
        };
        let run = entry.runs.swap_remove(at);
        if run.zombie {
            self.points.hit(Point::OutcomeLate);
        }
        let (code, digest, stop) = match &result {
            Ok(bytes) => (0, super::submit::number_of(bytes).map(Digest), false),
            Err((failure, pushback)) => (failure.code, None, *pushback == Some(u64::MAX)),
        };
        let done = Done {
            task: run.task,
            token,
            result,
            sent: None,
        };
        self.workers[worker].done.push(done.clone());
        if self.dice.permille(30) {
            self.hit(Point::OutcomeTwice);
            self.workers[worker].done.push(done);
        }
        self.tell(Event::OutcomeInvoke {
            task: Task(run.task.0),
            token: token.0,
            code,
            digest,
            stop,
        });
        self.plan_flush(worker);
    }

    pub(super) fn plan_flush(&mut self, worker: usize) {
        if !self.workers[worker].flushing {
            self.workers[worker].flushing = true;
            let delay = self.dice.below(2_000);
            self.after(delay, Action::Flush(worker));
        }
    }

    /// Sends the outcomes that were not sent on this stream.
    pub(super) fn flush(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        entry.flushing = false;
        let (Some(conn), true, false, false) = (entry.conn, entry.welcomed, entry.deaf, entry.gone)
        else {
            return;
        };
        let sequence = entry.sequence + 1;
        let mut outcomes = Vec::new();
        for done in entry.done.iter_mut().filter(|done| done.sent.is_none()) {
            done.sent = Some((conn, sequence));
            outcomes.push(Outcome {
                task: done.task,
                token: done.token,
                result: done.result.clone(),
            });
        }
        if outcomes.is_empty() {
            return;
        }
        entry.sequence = sequence;
        let told = outcomes.iter().map(|outcome| (outcome.task, outcome.token));
        let told = told.collect();
        self.conn(conn).outcomes.insert(sequence, told);
        let command = Command::Outcomes {
            conn,
            sequence,
            outcomes,
        };
        self.send_up(conn, command);
    }

    pub(super) fn receipt(&mut self, worker: usize, conn: ConnId, sequence: u64) {
        let entry = &self.workers[worker];
        if entry.conn == Some(conn) && !entry.deaf && !entry.gone {
            self.send_up(conn, Command::WorkerAccepted { conn, sequence });
        }
    }

    /// A lease is not the worker's any more; most handlers listen.
    pub(super) fn lose(&mut self, worker: usize, task: TaskId, token: Token) {
        let zombie = self.dice.permille(250);
        let runs = &mut self.workers[worker].runs;
        let Some(at) = runs
            .iter()
            .position(|run| (run.task, run.token) == (task, token))
        else {
            return;
        };
        if zombie && runs[at].begun && runs[at].flow.is_none() {
            runs[at].zombie = true;
        } else {
            runs.swap_remove(at);
        }
    }

    /// A worker's stream came to its end.
    pub(super) fn worker_lost(&mut self, worker: usize, conn: ConnId) {
        let entry = &mut self.workers[worker];
        if entry.conn != Some(conn) || entry.gone {
            return;
        }
        if entry.deaf {
            entry.inbox.push_back((conn, None));
            return;
        }
        entry.conn = None;
        let name = entry.name.clone();
        self.tell(Event::Detach { worker: name });
        let delay = self.dice.span(50_000);
        self.after(delay, Action::Reconnect(Peer::Worker(worker)));
    }

    /// A worker stops hearing and speaking; the broker gives it up after a while.
    pub(super) fn deafen(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        let Some(conn) = entry.conn.filter(|_| !entry.deaf) else {
            return;
        };
        entry.deaf = true;
        let long = self.dice.permille(700);
        if long {
            self.hit(Point::WorkerDeaf);
            self.end_broker(conn, SILENCE);
        }
        let span = self.dice.span(if long { 3_000_000 } else { 300_000 });
        self.after(span, Action::Wake(worker));
    }

    pub(super) fn wake(&mut self, worker: usize) {
        self.workers[worker].deaf = false;
        while let Some((conn, effect)) = self.workers[worker].inbox.pop_front() {
            match effect {
                Some(effect) => self.worker_told(worker, conn, effect),
                None => self.worker_lost(worker, conn),
            }
        }
        self.plan_flush(worker);
    }

    /// A worker's process dies, with its handlers and its client.
    pub(super) fn kill_worker(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        if entry.gone {
            return;
        }
        entry.gone = true;
        entry.runs.clear();
        entry.done.clear();
        let (name, client, conn) = (entry.name.clone(), entry.client, entry.conn.take());
        self.worker_crashes += 1;
        self.hit(Point::WorkerDied);
        self.tell(Event::Crash { what: name });
        if let Some(conn) = conn {
            self.conn(conn).peer_open = false;
            let delay = self.dice.span(10_000);
            self.end_broker(conn, delay);
        }
        self.client_dies(client);
        let delay = self.dice.span(300_000);
        self.after(delay, Action::Spawn);
    }

    /// A worker hands back what it has not started.
    pub(super) fn hand_back(&mut self, worker: usize, drain: bool) {
        let entry = &mut self.workers[worker];
        let Some(conn) = entry.conn.filter(|_| entry.welcomed && !entry.deaf) else {
            return;
        };
        let (idle, rest) = std::mem::take(&mut entry.runs)
            .into_iter()
            .partition::<Vec<Run>, _>(|run| !run.begun);
        entry.runs = rest;
        if drain {
            // Its word tells the receipt of all that it has.
            let sequence = entry.received;
            entry.drains = Some(conn);
            self.send_up(conn, Command::WorkerAccepted { conn, sequence });
            self.send_up(conn, Command::WorkerDraining { conn });
            self.hit(Point::Drained);
        }
        let leases: Vec<(TaskId, Token)> = idle.iter().map(|run| (run.task, run.token)).collect();
        if !leases.is_empty() {
            self.hit(Point::HandedBack);
            self.send_up(conn, Command::HandBack { conn, leases });
        }
    }
}
