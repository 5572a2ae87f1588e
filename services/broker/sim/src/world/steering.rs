//! The scheduler's words in a seed: how tasks are divided between versions of workers, and gates of methods. Most seeds
//! know neither. The broker's side of it is told as it takes it: what a dispatch goes by is then known exactly.

use super::policies::METHODS;
use super::story::{Call, Deferred};
use super::weighing;
use super::{Action, World};
use crate::dice::Dice;
use crate::history::{self, Event, Joined};
use crate::points::Point;
use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait_broker_core::command::{Command, Gate, WorkerAttach};
use plait_broker_core::ids::{ConnId, Millis};
use plait_broker_core::split::{Split, Sticky};
use prost::Message;

const SERVICE: &str = "sim.v1.S";
const VERSIONS: [&str; 3] = ["1", "2", ""];
const SHARES: [u32; 6] = [0, 0, 500, 3_000, 7_000, 10_000];
const STICKY: [Sticky; 4] = [
    Sticky::Task,
    Sticky::OrderingKey,
    Sticky::IdempotencyKey,
    Sticky::LimitKey,
];

/// Workers that the scheduler's hand adds at most.
const WORKERS_MAX: usize = 7;

/// What a seed's scheduler does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steering {
    /// How long the others' tasks wait for one of them, ms, where tasks are divided.
    fallback_ms: Option<u64>,
    gates: bool,
    /// Mean time between two words, µs.
    every: u64,
}

/// A rollout that goes on.
#[derive(Debug, Default)]
pub(super) struct Rollout {
    number: u64,
    version: &'static str,
    sticky: Sticky,
}

impl Steering {
    /// That of a seed, drawn apart from all else, so that seeds without it are what they were before.
    pub(crate) fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, 23);
        let divides = dice.permille(220);
        let fallback = [200, 1_500, 10_000][dice.below(3) as usize];
        Self {
            fallback_ms: divides.then_some(fallback),
            gates: dice.permille(150),
            every: dice.range(150, 900) * 1_000,
        }
    }

    /// Whether anything may keep tasks from starting without end: then no deadline is to hide it.
    pub(crate) fn is_on(&self) -> bool {
        self.fallback_ms.is_some() || self.gates
    }
}

impl World {
    /// The version of a new worker.
    pub(super) fn some_version(&mut self) -> &'static str {
        match self.plan.steering.fallback_ms {
            Some(_) => VERSIONS[self.dice.below(3) as usize],
            None => "",
        }
    }

    pub(super) fn begin_steering(&mut self) {
        if self.plan.steering.is_on() {
            let delay = self.dice.span(self.plan.steering.every);
            self.after(delay, Action::Steer);
        }
    }

    /// The scheduler says something.
    pub(super) fn steer(&mut self) {
        if self.healing.is_some() {
            return;
        }
        self.begin_steering();
        let divides = self.plan.steering.fallback_ms;
        match divides.filter(|_| !self.plan.steering.gates || self.dice.permille(700)) {
            Some(fallback_ms) => self.roll_out(fallback_ms),
            None => self.gate_some(),
        }
    }

    fn roll_out(&mut self, fallback_ms: u64) {
        match self.dice.below(10) {
            0 => return self.say_splits(Vec::new()),
            1..3 => {
                if self.workers.iter().filter(|worker| !worker.gone).count() < WORKERS_MAX {
                    self.new_worker(None);
                }
                return;
            }
            3 => {
                if let Some(at) = self.dice.index(self.workers.len()) {
                    self.hand_back(at, true);
                }
                return;
            }
            4 => self.next_rollout(),
            _ if self.rollout.number == 0 => self.next_rollout(),
            _ => {}
        }
        let share = SHARES[self.dice.below(6) as usize];
        let split = self.split(share, fallback_ms);
        self.say_splits(vec![split]);
    }

    fn next_rollout(&mut self) {
        self.rollout = Rollout {
            number: self.rollout.number + 1,
            version: VERSIONS[self.dice.below(2) as usize],
            sticky: STICKY[self.dice.below(4) as usize],
        };
    }

    fn split(&self, share: u32, fallback_ms: u64) -> Split {
        let Rollout {
            number,
            version,
            sticky,
        } = self.rollout;
        Split {
            service: SERVICE.into(),
            version: version.into(),
            share,
            sticky,
            salt: format!("{SERVICE}@{version}.{number}").into(),
            fallback_ms,
        }
    }

    fn say_splits(&mut self, splits: Vec<Split>) {
        let record = encoded(&splits);
        let tag = self.tag(Call::Other);
        let delay = self.dice.span(5_000);
        let set = Command::SetSplits {
            tag,
            splits,
            record,
        };
        self.after(delay, Action::Call(set));
    }

    /// As the breaker of a method does: nothing may begin, or a few probes, or anything again.
    fn gate_some(&mut self) {
        let long = self.dice.permille(100);
        let gate = Gate {
            method: METHODS[self.dice.below(4) as usize].into(),
            permits: [Some(0), Some(0), Some(3), None][self.dice.below(4) as usize],
            valid_ms: self.dice.span(if long { 6_000 } else { 1_500 }),
        };
        let (tag, gates) = (self.tag(Call::Other), vec![gate]);
        let delay = self.dice.span(5_000);
        self.after(delay, Action::Call(Command::SetGates { tag, gates }));
    }

    /// What the broker is about to be told, as a history tells it once that is durable.
    pub(super) fn taken(&self, command: &Command) -> Vec<Event> {
        let Some(broker) = &self.broker else {
            return Vec::new();
        };
        let broker_at = broker.time(self.now);
        let gate = |of: &history::Name, permits: Option<u32>, valid_ms: Millis| history::Gate {
            of: of.clone(),
            permits: permits.map(u64::from),
            valid_ms,
            broker_at,
        };
        match command {
            Command::WorkerAttached(attach) => vec![Event::WorkerOn(joined(attach, broker_at))],
            Command::WorkerDraining { conn } | Command::WorkerDetached { conn, .. } => {
                let ConnId(conn) = *conn;
                vec![Event::WorkerOff { conn, broker_at }]
            }
            Command::SetGates { gates, .. } => {
                let gates = gates.iter();
                let told = gates.map(|set| gate(&set.method, set.permits, set.valid_ms));
                told.map(Event::Gate).collect()
            }
            Command::SetWorkerGates { gates, .. } => {
                let gates = gates.iter();
                let told = gates.map(|set| gate(&set.worker, set.permits, set.valid_ms));
                told.map(Event::WorkerGate).collect()
            }
            Command::SetSplits { splits, .. } => {
                let splits = splits.iter().map(told).collect();
                vec![Event::SplitsOk { splits, broker_at }]
            }
            Command::SetWeights { method, record, .. } => {
                let (method, weights) = (method.clone(), weighing::told(record));
                vec![Event::WeightsOk { method, weights }]
            }
            _ => Vec::new(),
        }
    }

    /// A command reaches the state machine that changes who may be given what.
    pub(super) fn command_told(&mut self, command: Command) {
        match &command {
            Command::SetSplits { splits, .. } => {
                self.tell(Event::SplitsInvoke);
                self.hit(match splits.first().map(|split| split.share) {
                    None => Point::SplitEnded,
                    Some(0) => Point::RolledBack,
                    Some(_) => Point::SplitSet,
                });
            }
            Command::SetGates { .. } => self.hit(Point::MethodGated),
            Command::SetWeights { method, record, .. } => self.weights_said(method, record),
            _ => {}
        }
        let told = self.taken(&command);
        self.command(command);
        for event in told {
            self.answer(Deferred::Tell(event));
        }
    }
}

fn joined(attach: &WorkerAttach, broker_at: Millis) -> Joined {
    Joined {
        worker: attach.worker.clone(),
        conn: attach.conn.0,
        version: attach.version.clone(),
        methods: attach.methods.clone(),
        slots: attach.slots,
        broker_at,
    }
}

fn told(split: &Split) -> history::Split {
    history::Split {
        service: split.service.clone(),
        version: split.version.clone(),
        share: split.share.into(),
        sticky: match split.sticky {
            Sticky::Task => history::Sticky::Task,
            Sticky::OrderingKey => history::Sticky::OrderingKey,
            Sticky::IdempotencyKey => history::Sticky::IdempotencyKey,
            Sticky::LimitKey => history::Sticky::LimitKey,
        },
        salt: split.salt.clone(),
        fallback_ms: split.fallback_ms,
    }
}

/// As the scheduler sends them, which is how they are kept.
fn encoded(splits: &[Split]) -> Bytes {
    let split = |split: &Split| control::Split {
        service: split.service.to_string(),
        version: split.version.to_string(),
        share: split.share,
        sticky: match split.sticky {
            Sticky::Task => control::StickyKey::Unspecified,
            Sticky::OrderingKey => control::StickyKey::Ordering,
            Sticky::IdempotencyKey => control::StickyKey::Idempotency,
            Sticky::LimitKey => control::StickyKey::Limit,
        }
        .into(),
        salt: split.salt.to_string(),
        fallback_after: Some(prost_types::Duration {
            seconds: (split.fallback_ms / 1_000) as i64,
            nanos: (split.fallback_ms % 1_000 * 1_000_000) as i32,
        }),
    };
    if splits.is_empty() {
        return Bytes::new();
    }
    let splits = splits.iter().map(split).collect();
    let request = control::SetSplitsRequest { splits };
    request.encode_to_vec().into()
}
