//! Clients and workers around a partition, and a log that keeps only what was synced.

use super::ledger::Ledger;
use super::policies::{self, FLOW, METHODS, ONCE, PLAIN, POISON};
use super::random::Random;
use crate::harness::{START, config, status};
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;
use plait_broker_core::split::{Split, Sticky, WHOLE};
use plait_broker_core::weight::Weights;
use plait_broker_core::{Config, Partition, Step};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

mod archive;
mod client;
mod workers;

use archive::Archive;
use client::Client;
use workers::Worker;

/// The longest pushback that a handler asks for, ms.
pub(super) const PUSHBACK_MAX: u64 = 2_000;

/// Records and effects of a step that is not synced yet.
#[derive(Debug)]
struct Pending {
    time: Millis,
    records: Vec<Record>,
    effects: Vec<Effect>,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Millis,
    pub(super) partition: Partition,
    pub(super) ledger: Ledger,
    config: Config,
    /// What is on disk.
    log: Vec<(Millis, Record)>,
    pending: VecDeque<Pending>,
    next_conn: u64,
    client: Client,
    workers: Vec<Worker>,
    /// Final outcomes that were told, by task and how often it was redriven.
    told: BTreeMap<(TaskId, u32), String>,
    area: u64,
    archive: Archive,
    /// A snapshot that is taken in parts: what it has to tell, and what it told so far.
    snapshot: Option<(Vec<Record>, Vec<Record>)>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let config = Config {
            // Files of one task, of some, and none.
            finished_in_memory: [8, 32, 64, 1 << 20][seed as usize % 4],
            frame_attempts_max: 5,
            queue_tasks_max: 60,
            resident_bytes_max: 300,
            session_ttl_ms: 50_000,
            reattach_grace_ms: 2_000,
            ..config()
        };
        let mut world = Self {
            random: Random(seed),
            now: START,
            partition: Partition::new(config.clone()),
            ledger: Ledger::new(),
            config,
            log: Vec::new(),
            pending: VecDeque::new(),
            next_conn: 1,
            client: Client::default(),
            workers: Vec::new(),
            told: BTreeMap::new(),
            area: 0,
            archive: Archive::default(),
            snapshot: None,
        };
        world.partition.recovered(START);
        let policies = policies::all();
        world.command(Command::ApplyPolicies {
            tag: ReplyTag(0),
            policies,
        });
        world.sync(usize::MAX);
        world.connect_client();
        world
    }

    pub(super) fn log(&self) -> &[(Millis, Record)] {
        &self.log
    }

    pub(super) fn conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    /// Applies a command, judges its records, and keeps its effects until they are synced.
    pub(super) fn command(&mut self, command: Command) {
        let mut step = Step::default();
        let expected = self.expect_refused(&command);
        let entropy = self.random.next();
        self.partition.apply(command, self.now, entropy, &mut step);
        if self.random.permille(900) {
            let entropy = self.random.next();
            self.partition.dispatch(self.now, entropy, &mut step);
        }
        if let Some(expected) = expected {
            let refused = crate::harness::refused(&step.effects);
            let refused: Vec<_> = refused
                .into_iter()
                .map(|(task, token, _)| (task, token))
                .collect();
            assert_eq!(
                refused, expected,
                "I3: exactly the outcomes under old tokens are refused"
            );
        }
        for record in &step.records {
            self.ledger.take(record, self.now);
        }
        for effect in &step.effects {
            self.judge(effect);
        }
        let Step {
            mut records,
            effects,
        } = step;
        self.partition.place(self.area);
        let mut at = self.area;
        records
            .iter_mut()
            .for_each(|record| placed(record, &mut at));
        self.area += 1 << 18;
        self.pending.push_back(Pending {
            time: self.now,
            records,
            effects,
        });
    }

    /// What may be sent at all, judged when it is decided.
    fn judge(&self, effect: &Effect) {
        let Effect::Attempts { conn, attempts, .. } = effect else {
            return;
        };
        let worker = self
            .workers
            .iter()
            .find(|worker| worker.conn == Some(*conn));
        let worker = worker.unwrap_or_else(|| panic!("{conn:?} is not attached"));
        assert!(!worker.draining, "a draining worker gets nothing");
        assert!(attempts.len() <= self.config.frame_attempts_max);
        for attempt in attempts {
            let entry = &self.ledger.tasks[&attempt.task];
            assert_eq!(
                (entry.token, entry.attempt),
                (attempt.token, attempt.attempt)
            );
            assert_eq!(worker.methods[attempt.method as usize], entry.method);
            assert!(attempt.timeout_ms <= entry.expire_at - self.now, "I5");
            let request = &attempt.request;
            assert!(
                request.bytes.is_some() || request.at.is_some(),
                "the request is somewhere"
            );
        }
    }

    /// Outcomes that must be refused.
    fn expect_refused(&self, command: &Command) -> Option<Vec<(TaskId, Token)>> {
        let Command::Outcomes { conn, outcomes, .. } = command else {
            return None;
        };
        let name = self
            .workers
            .iter()
            .find(|w| w.conn == Some(*conn))
            .map(|w| w.name.clone());
        let mut settled = Vec::new();
        let mut refused = Vec::new();
        for outcome in outcomes {
            let key = (outcome.task, outcome.token);
            let held = self.ledger.tasks.get(&outcome.task).is_some_and(|entry| {
                entry.state == TaskState::Running
                    && entry.token == outcome.token
                    && entry.worker == name
                    && name.is_some()
            });
            if held && !settled.contains(&key) {
                settled.push(key);
            } else {
                refused.push(key);
            }
        }
        Some(refused)
    }

    /// The oldest steps reach the disk; then their effects may be carried out.
    pub(super) fn sync(&mut self, steps: usize) {
        for _ in 0..steps.min(self.pending.len()) {
            let Some(step) = self.pending.pop_front() else {
                return;
            };
            self.log
                .extend(step.records.into_iter().map(|record| (step.time, record)));
            for effect in step.effects {
                self.deliver(effect);
            }
        }
    }

    fn deliver(&mut self, effect: Effect) {
        match effect {
            Effect::Results { conn, results } => {
                for result in &results {
                    self.check_result(result);
                }
                self.client.results(conn, &results);
            }
            Effect::ResultsArchived { conn, tasks } => self.archived_results(conn, &tasks),
            Effect::ArchivesReleased { archives } => self.archives_released(&archives),
            Effect::Accepted {
                conn,
                sequence,
                acceptance,
            } => {
                self.client.accepted(conn, sequence, acceptance);
            }
            Effect::SessionOpened {
                conn,
                last_sequence,
            } => {
                self.client.opened(conn, last_sequence);
            }
            Effect::SessionClosed { error, .. } => panic!("the client keeps the rules: {error}"),
            other => self.deliver_to_worker(other),
        }
    }

    /// I1, I2, I7: a task has one final outcome, whoever asks.
    fn check_result(&mut self, result: &TaskResult) {
        let Some(entry) = self.ledger.tasks.get(&result.task) else {
            return;
        };
        let text = match &result.result {
            Ok(blob) => format!("response of {} bytes", blob.len),
            Err((state, failure)) => format!("{state:?} {} {}", failure.code, failure.message),
        };
        let known = self
            .told
            .entry((result.task, entry.redriven))
            .or_insert_with(|| text.clone());
        if entry.redriven == 0 {
            assert_eq!(*known, text, "one outcome for {}", result.task);
        }
    }

    /// The broker dies: what was not synced is gone, and nobody heard of it.
    pub(super) fn crash(&mut self) {
        self.pending.clear();
        self.config.epoch += 1;
        let mut partition = Partition::new(self.config.clone());
        let mut ledger = Ledger::new();
        for (time, record) in &self.log {
            partition.replay(record.clone(), *time);
            ledger.take(record, *time);
        }
        self.partition = partition;
        self.snapshot = None;
        self.ledger = ledger;
        self.partition.recovered(self.now);
        self.archive_restarts();
        for worker in &mut self.workers {
            worker.conn = None;
        }
        self.client.disconnected();
        self.client.check_acked(&self.ledger, &self.log);
        self.connect_client();
    }

    /// A snapshot that is taken while the state changes tells it as it was.
    fn take_image(&mut self) {
        let Some((expected, told)) = &mut self.snapshot else {
            if self.random.permille(50) {
                let expected = self.partition.image(self.now).collect();
                self.partition.begin_image(self.now);
                self.snapshot = Some((expected, Vec::new()));
            }
            return;
        };
        for _ in 0..self.random.below(3) {
            let Some(record) = self.partition.image_part(1 + self.random.below(3) as usize) else {
                same_state(told, expected, "a snapshot in parts");
                assert_eq!(self.partition.image_backlog(), 0);
                self.snapshot = None;
                return;
            };
            told.push(record);
        }
    }

    /// The whole log, and a snapshot with the log behind it, tell the same state as life.
    fn check_replay(&mut self) {
        self.snapshot = None;
        self.sync(usize::MAX);
        let live: Vec<Record> = self.partition.image(self.now).collect();
        let mut replayed = Partition::new(self.config.clone());
        for (time, record) in &self.log {
            replayed.replay(record.clone(), *time);
        }
        let image: Vec<Record> = replayed.image(self.now).collect();
        same_state(&image, &live, "the whole log");
        let cut = self.random.below(self.log.len() as u64 + 1) as usize;
        let at = self.log[..cut].last().map_or(START, |(time, _)| *time);
        let mut early = Partition::new(self.config.clone());
        for (time, record) in &self.log[..cut] {
            early.replay(record.clone(), *time);
        }
        let mut restored = Partition::new(self.config.clone());
        for record in early.image(at) {
            restored.replay(record, at);
        }
        for (time, record) in &self.log[cut..] {
            restored.replay(record.clone(), *time);
        }
        let image: Vec<Record> = restored.image(self.now).collect();
        same_state(&image, &live, &format!("a snapshot after {cut} records"));
    }

    /// The state agrees with the ledger.
    fn check_state(&mut self) {
        self.check_forgotten();
        let known = self.partition.load().1 + self.partition.archived().1;
        assert_eq!(known, self.ledger.tasks.len() as u64);
        let mut leases: BTreeMap<String, u32> = BTreeMap::new();
        for (id, entry) in &self.ledger.tasks {
            let Some(view) = self.find(*id) else {
                let over = self.ledger.may_be_forgotten(*id, self.now);
                assert!(entry.archive.is_some() && over, "{id} is lost");
                continue;
            };
            let over = self.ledger.may_be_forgotten(*id, self.now);
            assert!(entry.archive.is_none() || !over, "{id} is served too long");
            let same = match entry.state {
                TaskState::Running => !view.state.is_final(),
                TaskState::Scheduled | TaskState::Backoff if entry.start_at <= self.now => {
                    !view.state.is_final()
                }
                TaskState::Ready => {
                    matches!(view.state, TaskState::Ready | TaskState::Parked)
                }
                state => view.state == state,
            };
            assert!(same, "{id} is {:?}, not {:?}", view.state, entry.state);
            assert_eq!(view.attempt, entry.attempt);
            assert_eq!(view.worker.as_deref(), entry.worker.as_deref());
            if let Some(worker) = &entry.worker {
                *leases.entry(worker.clone()).or_default() += 1;
            }
        }
        let figures = self.partition.take_figures(self.now);
        for worker in figures.workers {
            let held = leases.get(&*worker.worker).copied().unwrap_or(0);
            assert_eq!(worker.in_flight + worker.suspended, held, "{worker:?}");
        }
        let running: u64 = figures.queues.iter().map(|queue| queue.running).sum();
        let counted: u64 = self
            .partition
            .queues()
            .iter()
            .flat_map(|queue| queue.counts.clone())
            .map(|(_, count)| count)
            .sum();
        assert_eq!(counted, self.ledger.tasks.len() as u64);
        assert!(running <= leases.values().map(|count| u64::from(*count)).sum());
    }

    /// Time passes; the shell ticks, though not always at once.
    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(at) = self.partition.next_timer().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.command(Command::Tick);
            if self.random.permille(50) {
                break;
            }
        }
        self.now = until;
    }

    /// One random thing happens.
    pub(super) fn act(&mut self) {
        self.take_image();
        match self.random.below(100) {
            0..22 => self.client_submits(),
            22..24 => self.client_waits(),
            24..27 => self.client_reconnects(),
            27..32 => self.operator_acts(),
            32..62 => self.worker_acts(),
            62..70 => self.worker_comes_or_goes(),
            70..85 => {
                let steps = self.random.below(6) as usize;
                self.sync(steps);
            }
            85..91 => {
                let ms = if self.random.permille(100) {
                    20_000
                } else {
                    60
                };
                let ms = self.random.below(ms);
                self.pass(ms);
            }
            91..95 => self.archives(),
            95..97 => self.crash(),
            97..98 => self.check_replay(),
            _ => self.check_state(),
        }
    }

    /// Weights of some keys of a method, or of none; whoever comes back after a crash knows of none.
    fn weights(&mut self) -> Command {
        let method = [PLAIN, ONCE, FLOW][self.random.below(3) as usize];
        let keys = self.random.below(4);
        let weights = (0..keys).map(|key| {
            let weight = 1 + self.random.below(5) as u32;
            (format!("l{key}").into(), weight)
        });
        set_weights(method, Weights::new(weights))
    }

    fn operator_acts(&mut self) {
        let tag = ReplyTag(1);
        let tasks: Vec<TaskId> = self.ledger.tasks.keys().copied().collect();
        let queue = ["model", "other", "flows"][self.random.below(3) as usize];
        let Some(at) = self.random.index(tasks.len()) else {
            return;
        };
        let command = match self.random.below(14) {
            12.. => self.weights(),
            10..12 => Command::SetSplits {
                tag,
                splits: self.splits(),
                // Whoever comes back after a crash knows of none.
                record: Bytes::new(),
            },
            0..5 => Command::Cancel {
                tag,
                task: tasks[at],
                reason: "operator".into(),
            },
            5 => Command::PauseQueue {
                tag,
                queue: queue.into(),
                reason: "model".into(),
            },
            6..8 => Command::ResumeQueue {
                tag,
                queue: queue.into(),
            },
            _ => {
                let failed = self
                    .ledger
                    .tasks
                    .iter()
                    .filter(|(_, e)| e.state == TaskState::Failed);
                let failed: Vec<TaskId> = failed.map(|(id, _)| *id).collect();
                let from = self.random.index(failed.len()).unwrap_or(0);
                let tasks = failed[from..].iter().copied().take(3).collect();
                return self.redrive(tasks);
            }
        };
        self.command(command);
    }

    /// A share of all or some services for version 2, or none.
    fn splits(&mut self) -> Vec<Split> {
        let share = [0, 500, 5_000, 9_500, WHOLE][self.random.below(5) as usize];
        let sticky = [Sticky::Task, Sticky::OrderingKey, Sticky::LimitKey];
        let split = Split {
            service: service_of(METHODS[0]),
            version: "2".into(),
            share,
            sticky: sticky[self.random.below(3) as usize],
            salt: "model".into(),
            fallback_ms: self.random.below(3_000),
        };
        Vec::from_iter(self.random.permille(800).then_some(split))
    }

    /// I19: the faults end; every task ends, and every result that is waited for is told.
    pub(super) fn heal(&mut self) {
        self.sync(usize::MAX);
        for queue in ["model", "other", "flows"] {
            self.command(Command::ResumeQueue {
                tag: ReplyTag(1),
                queue: queue.into(),
            });
        }
        for worker in 0..self.workers.len() {
            self.detach(worker);
        }
        self.workers.clear();
        self.attach_new("healer", &METHODS, 50);
        for _ in 0..10_000 {
            self.sync(usize::MAX);
            self.finish_all();
            self.sync(usize::MAX);
            if self.ledger.unfinished().next().is_none() && self.client.is_content() {
                self.check_replay();
                self.check_state();
                return;
            }
            let due = self
                .partition
                .next_timer()
                .map_or(0, |at| at.saturating_sub(self.now));
            self.pass(due.clamp(1, 1_000));
        }
        let left: Vec<_> = self.ledger.unfinished().collect();
        panic!(
            "I19: {left:?} never ended, or the client waits: {:?}",
            self.client
        );
    }

    /// When every retention is over, nothing is left.
    pub(super) fn forget(&mut self) {
        self.command(Command::SessionClosed {
            conn: self.client.conn.expect("it is connected"),
        });
        for _ in 0..200 {
            self.pass(2_000);
            self.archives_end();
        }
        for method in [PLAIN, ONCE, FLOW] {
            self.command(set_weights(method, Weights::default()));
        }
        self.sync(usize::MAX);
        assert_eq!(self.partition.load(), (0, 0));
        assert_eq!(self.partition.archived(), (0, 0));
        let left: Vec<Record> = self.partition.image(self.now).collect();
        let records = left.len();
        assert_eq!(records, 2, "policies and counters: {left:?}");
        assert!(!self.partition.needs(0, u64::MAX));
        let idle = self.partition.next_timer();
        assert_eq!(idle, None, "an idle partition has nothing to do");
    }
}

fn set_weights(method: &str, weights: Weights) -> Command {
    Command::SetWeights {
        tag: ReplyTag(1),
        method: method.into(),
        weights,
        record: Bytes::new(),
    }
}

fn service_of(method: &str) -> Arc<str> {
    let (service, _) = method.rsplit_once('/').expect("a path");
    service.trim_start_matches('/').into()
}

/// Compares images, and tells only where they differ.
fn same_state(image: &[Record], live: &[Record], what: &str) {
    let parts = |records: &[Record]| {
        let parts = records.iter().flat_map(|record| match record {
            Record::Image(plait_broker_core::image::Image::Tasks(tasks)) => tasks
                .iter()
                .map(|task| format!("{task:?}"))
                .collect::<Vec<_>>(),
            Record::Image(plait_broker_core::image::Image::Archives { files, keys }) => {
                // Keys come in the order in which they were put.
                let mut keys = keys.clone();
                keys.sort_unstable_by_key(|key| (key.hash, key.tag));
                vec![format!("{files:?}"), format!("{keys:?}")]
            }
            Record::Image(plait_broker_core::image::Image::Rate(rate)) => {
                let mut rate = rate.clone();
                rate.keys.sort_unstable();
                vec![format!("{rate:?}")]
            }
            other => vec![format!("{other:?}")],
        });
        parts.collect::<Vec<_>>()
    };
    let (image, live) = (parts(image), parts(live));
    for (told, is) in image.iter().zip(&live) {
        assert_eq!(told, is, "{what} tells another state");
    }
    assert_eq!(image.len(), live.len(), "{what} tells another state");
}

/// The record as replay sees it: the log has its payloads one after the other from `at` on.
fn placed(record: &mut Record, at: &mut Offset) {
    let mut place = |blob: &mut Blob| {
        *blob = match blob.len {
            0 => Blob::default(),
            len => Blob::stored(*at, len),
        };
        *at += Offset::from(blob.len);
    };
    match record {
        Record::Submitted { tasks, .. } => {
            for task in tasks {
                place(&mut task.request);
                place(&mut task.envelope);
            }
        }
        Record::Succeeded { tasks } => tasks.iter_mut().for_each(|(_, blob)| place(blob)),
        _ => {}
    }
}

pub(super) fn request(random: &mut Random) -> Bytes {
    Bytes::from(vec![1; random.below(40) as usize])
}

/// How a handler ends.
pub(super) fn ending(random: &mut Random, method: &str) -> Result<Bytes, (Failure, Option<u64>)> {
    let failing = match method {
        POISON => 900,
        ONCE => 100,
        PLAIN | FLOW => 250,
        _ => 0,
    };
    if !random.permille(failing) {
        return Ok(request(random));
    }
    let code = if random.permille(800) { 14 } else { 3 };
    let pushback = match random.below(10) {
        0..2 => Some(random.below(PUSHBACK_MAX)),
        _ => None,
    };
    Err((status(code), pushback))
}
