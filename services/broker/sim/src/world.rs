//! One seed's world: clients, workers, an operator, faults, and the broker's state machine, log and recovery between
//! them, on one virtual clock. Everything that happens is an action at an instant; equal instants are drawn.

mod archive;
mod broker;
mod client;
mod conns;
mod endgame;
mod faults;
mod flow;
pub(crate) mod limits;
mod operator;
pub(crate) mod policies;
mod restart;
pub(crate) mod steering;
mod story;
pub(crate) mod submit;
pub(crate) mod weighing;
mod worker;

use crate::check::{self, Violation};
use crate::dice::Dice;
use crate::disk::Seen;
use crate::history::{Entry, Event, Name, Rules};
use crate::plan::Plan;
use crate::points::{Point, Points};
use archive::Asker;
use broker::Broker;
use client::{Client, Submitted};
use conns::{Conn, Peer};
use plait_broker_core::command::Command;
use plait_broker_core::effect::Effect;
use plait_broker_core::ids::{ConnId, Millis, ReplyTag, Token};
use plait_broker_log::sim::{Faults, SimDisk};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use worker::Worker;

/// The wall clock at the beginning of every world, ms.
const START: Millis = 1_700_000_000_000;

/// How long a world may take to come to rest after its last fault, virtual ms: five times the longest lease, which is
/// the time limit of an attempt of a flow.
pub const REST_MS: u64 = 75_000;

/// The same where no deadline ends what waits for long, as lines of slow tasks do.
pub const PATIENT_REST_MS: u64 = 2 * REST_MS;

/// Something that will happen.
#[derive(Debug)]
enum Action {
    Up(ConnId, Command),
    Down(ConnId, Effect),
    PeerLost(ConnId),
    BrokerLost(ConnId),
    /// A unary call reaches the broker.
    Call(Command),
    /// A unary call's answer is lost.
    CallLost(ReplyTag),
    Seal(u64),
    Sync(u64),
    Tick(u64),
    WriteSnapshot(u64),
    WriteArchive(u64),
    /// Somebody is told of tasks in archive files.
    LookUp(u64, Asker),
    Boot,
    Client(usize),
    Reconnect(Peer),
    Operator,
    /// The scheduler, where it does more than an operator.
    Steer,
    /// The operator, where limit keys have weights.
    Weigh,
    Edge(Name),
    Fault,
    DiskHeals,
    /// A handler ends.
    Finish(usize, Token),
    /// A handler that waited in its worker starts.
    Begin(usize, Token),
    Flush(usize),
    Receipt(usize, ConnId, u64),
    Wake(usize),
    Spawn,
    Heal,
    LookAround,
}

#[derive(Debug)]
struct Due {
    at: u64,
    tie: u32,
    number: u64,
    action: Action,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first, and the earliest is wanted.
        (other.at, other.tie, other.number).cmp(&(self.at, self.tie, self.number))
    }
}

/// What a seed came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Equal for equal runs: over every entry of the history.
    pub hash: u64,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// Places reached.
    pub points: Points,
    /// Tasks that were submitted and taken.
    pub tasks: u64,
    /// Leases granted.
    pub attempts: u64,
    /// Crashes of the broker.
    pub crashes: u64,
    /// Crashes of workers.
    pub worker_crashes: u64,
    /// Single checks.
    pub checks: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
    /// From the last fault to rest, virtual ms.
    pub rest_ms: u64,
    /// What else was counted, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// What happened.
    pub history: Vec<Entry>,
}

struct World {
    seed: u64,
    plan: Plan,
    dice: Dice,
    /// Virtual time, µs.
    now: u64,
    due: BinaryHeap<Due>,
    numbers: u64,
    points: Points,
    disk: SimDisk,
    seen: Arc<Seen>,
    broker: Option<Broker>,
    /// Lives of the broker so far.
    life: u64,
    /// By how much the wall clock is off, ms.
    skew: i64,
    conns: Vec<Conn>,
    clients: Vec<Client>,
    workers: Vec<Worker>,
    calls: BTreeMap<ReplyTag, story::Call>,
    submitted: Vec<Submitted>,
    /// When each task was accepted, by its number; of the latest life that says so.
    created: BTreeMap<u64, Millis>,
    /// Submissions by key, for repeating one.
    keys: Vec<(Arc<str>, Arc<str>, u64)>,
    history: Vec<Entry>,
    found: Vec<Violation>,
    healing: Option<u64>,
    rested: Option<u64>,
    crashes: u64,
    worker_crashes: u64,
    boot_attempts: u32,
    rollout: steering::Rollout,
    /// Weights of limit keys that the operator wants.
    weights: BTreeMap<String, u32>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    // An assertion of the code under test ends the seed; its history up to there tells the way.
    if let Err(cause) = catch_unwind(AssertUnwindSafe(|| world.live())) {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.unwrap_or_else(|| "of an unknown kind".to_owned());
        world.wrong(check::Invariant::Assertion, text);
    }
    world.judge()
}

impl World {
    fn new(seed: u64) -> Self {
        let plan = Plan::draw(seed);
        Self {
            seed,
            dice: Dice::new(seed, 2),
            now: 1_000_000,
            due: BinaryHeap::new(),
            numbers: 0,
            points: Points::default(),
            disk: SimDisk::new(seed),
            seen: Arc::new(Seen::default()),
            broker: None,
            life: 0,
            skew: 0,
            conns: Vec::new(),
            clients: Vec::new(),
            workers: Vec::new(),
            calls: BTreeMap::new(),
            submitted: Vec::new(),
            created: BTreeMap::new(),
            keys: Vec::new(),
            history: Vec::new(),
            found: Vec::new(),
            healing: None,
            rested: None,
            crashes: 0,
            worker_crashes: 0,
            boot_attempts: 0,
            rollout: steering::Rollout::default(),
            weights: BTreeMap::new(),
            plan,
        }
    }

    fn live(&mut self) {
        self.tell(Event::Rules(Rules {
            slack_ms: 0,
            complete: true,
            ..Rules::default()
        }));
        for policy in policies::all(self.plan.brief, &self.plan.limits) {
            self.tell(Event::Method(policies::told(&policy)));
        }
        self.boot();
        for _ in 0..self.plan.clients {
            self.new_client(None);
        }
        for _ in 0..self.plan.workers {
            self.new_worker(None);
        }
        let start = self.now;
        let operator = start + self.dice.span(self.plan.operator_every);
        self.at(operator, Action::Operator);
        self.begin_steering();
        self.begin_weighing();
        if let Some(every) = self.plan.fault_every {
            let fault = start + self.dice.span(every);
            self.at(fault, Action::Fault);
        }
        self.at(start + self.plan.chaos, Action::Heal);
        while self.rested.is_none() && self.found.is_empty() {
            let Some(next) = self.due.pop() else { break };
            self.now = self.now.max(next.at);
            self.act(next.action);
        }
        if self.found.is_empty() {
            self.look_at_everything();
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Up(conn, command) => self.arrive(conn, command),
            Action::Down(conn, effect) => self.deliver(conn, effect),
            Action::PeerLost(conn) => self.peer_lost(conn),
            Action::BrokerLost(conn) => self.broker_lost(conn),
            Action::Call(command) => self.called(command),
            Action::CallLost(tag) => self.call_lost(tag),
            Action::Seal(life) if life == self.life => self.seal(),
            Action::Sync(life) if life == self.life => self.sync(),
            Action::Tick(life) if life == self.life => self.ticked(),
            Action::WriteSnapshot(life) if life == self.life => self.write_snapshot(),
            Action::WriteArchive(life) if life == self.life => self.write_archive(),
            Action::LookUp(life, asker) if life == self.life => self.look_up(asker),
            Action::Boot => self.boot(),
            Action::Client(client) => self.client_acts(client),
            Action::Reconnect(peer) => self.reconnect(peer),
            Action::Operator => self.operator_acts(),
            Action::Steer => self.steer(),
            Action::Weigh => self.weigh(),
            Action::Edge(queue) => self.edge(&queue),
            Action::Fault => self.fault(),
            Action::DiskHeals => self.disk.set_faults(Faults::default()),
            Action::Finish(worker, token) => self.finish(worker, token),
            Action::Begin(worker, token) => self.begin(worker, token),
            Action::Flush(worker) => self.flush(worker),
            Action::Receipt(worker, conn, sequence) => self.receipt(worker, conn, sequence),
            Action::Wake(worker) => self.wake(worker),
            Action::Spawn => drop(self.new_worker(self.healing.map(|_| ""))),
            Action::Heal => self.heal(),
            Action::LookAround => self.look_around(),
            _ => {}
        }
    }

    fn at(&mut self, at: u64, action: Action) {
        self.numbers += 1;
        let tie = self.dice.number() as u32;
        let number = self.numbers;
        self.due.push(Due {
            at,
            tie,
            number,
            action,
        });
    }

    fn after(&mut self, delay: u64, action: Action) {
        self.at(self.now + delay, action);
    }

    fn hit(&mut self, point: Point) {
        self.points.hit(point);
    }

    /// Adds to the history.
    fn tell(&mut self, event: Event) {
        self.history.push(Entry {
            at: self.now / 1_000,
            event,
        });
    }

    /// The world itself saw what must not be.
    fn wrong(&mut self, invariant: check::Invariant, text: String) {
        self.found.push(Violation {
            invariant,
            at: self.now / 1_000,
            text,
        });
    }

    fn judge(mut self) -> Outcome {
        // A run that was stopped by a violation tells nothing of ends.
        if !self.found.is_empty()
            && let Some(Entry {
                event: Event::Rules(rules),
                ..
            }) = self.history.first_mut()
        {
            rules.complete = false;
        }
        let report = check::check(&self.history);
        let mut hasher = DefaultHasher::new();
        self.history.hash(&mut hasher);
        let mut violations = std::mem::take(&mut self.found);
        violations.extend(report.violations);
        Outcome {
            seed: self.seed,
            hash: hasher.finish(),
            violations,
            points: self.points,
            tasks: report.tasks,
            attempts: report.attempts,
            crashes: self.crashes,
            worker_crashes: self.worker_crashes,
            checks: report.checks.values().sum(),
            virtual_ms: self.now / 1_000,
            rest_ms: self
                .healing
                .zip(self.rested)
                .map_or(0, |(from, to)| (to - from) / 1_000),
            counts: BTreeMap::new(),
            history: self.history,
        }
    }
}
