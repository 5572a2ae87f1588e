//! A partition with one client and one worker, and a clock that counts processor time.

use bytes::Bytes;
use plait_broker_core::command::{
    Command, Outcome, Submit, SubmitOptions, SubmitOrigin, SubmitTask, WorkerAttach,
};
use plait_broker_core::effect::{Attempt, Effect};
use plait_broker_core::ids::{ConnId, Millis, ReplyTag};
use plait_broker_core::policy::{CodeSet, Latency, Limits, MethodPolicy};
use plait_broker_core::record::Record;
use plait_broker_core::weight::Weights;
use plait_broker_core::{Config, Partition, Step};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const FRAME: usize = 128;
pub(crate) const CLIENT: ConnId = ConnId(1);
pub(crate) const WORKER: ConnId = ConnId(2);
pub(crate) const START: Millis = 1_700_000_000_000;

pub(crate) fn policy(method: &str) -> MethodPolicy {
    MethodPolicy {
        method: method.into(),
        queue: "bench".into(),
        deadline_ms: 86_400_000,
        attempt_timeout_ms: 60_000,
        max_attempts: 20,
        initial_backoff_ms: 200,
        max_backoff_ms: 60_000,
        multiplier_permille: 2000,
        retryable: CodeSet(1 << 14),
        needs_idempotency_key: false,
        needs_ordering_key: false,
        idempotency_window_ms: 86_400_000,
        priority: 4,
        latency: Latency::default(),
        queue_weight: 0,
        at_most_once: false,
        retention_ms: 10_000,
        dead_letter_retention_ms: 0,
        limits: Limits::default(),
        source: Bytes::new(),
    }
}

pub(crate) fn config() -> Config {
    Config {
        epoch: 1,
        resident_bytes_max: 64 << 20,
        queue_tasks_max: u64::MAX,
        reattach_grace_ms: 5_000,
        divergence_grace_ms: 100,
        session_ttl_ms: 600_000,
        finished_in_memory: 1 << 40,
        frame_attempts_max: FRAME,
    }
}

fn limit_key(number: u64) -> Arc<str> {
    format!("customer-{number:012}").into()
}

/// What tasks carry beside their request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) idempotency: bool,
    pub(crate) ordering: bool,
    pub(crate) envelope: bool,
    /// Different limit keys; 0: tasks have none.
    pub(crate) limit_keys: u64,
    pub(crate) limits: Limits,
    /// Different priorities, 1 to 10; 0: tasks have the policy's.
    pub(crate) priorities: u64,
    /// Methods, each with a queue of its own; 0: one.
    pub(crate) queues: u64,
    /// Whether every other method is of the background.
    pub(crate) mixed: bool,
    /// Keys of the first method that have weights, 1 to 7 by turns.
    pub(crate) weighted: u32,
}

pub(crate) struct Bench {
    pub(crate) partition: Partition,
    pub(crate) now: Millis,
    pub(crate) sequence: u64,
    pub(crate) outcomes: u64,
    pub(crate) area: u64,
    pub(crate) log: Option<Vec<(Millis, Record)>>,
    pub(crate) methods: Vec<Arc<str>>,
    pub(crate) shape: Shape,
}

impl Bench {
    pub(crate) fn new(shape: Shape) -> Self {
        Self::with(shape, config())
    }

    pub(crate) fn with(shape: Shape, config: Config) -> Self {
        let mut bench = Self {
            partition: Partition::new(config),
            now: START,
            sequence: 0,
            outcomes: 0,
            area: 0,
            log: Some(Vec::new()),
            methods: (0..shape.queues.max(1))
                .map(|number| format!("/bench.v1.Echo/Run{number}").into())
                .collect(),
            shape,
        };
        bench.partition.recovered(START);
        let policies = bench.methods.iter().zip(0u32..);
        let policies = policies.map(|(method, number)| MethodPolicy {
            limits: shape.limits,
            queue: format!("echo{number}").into(),
            queue_weight: number % 5 + 1,
            latency: if shape.mixed && number % 2 == 1 {
                Latency::Background
            } else {
                Latency::Standard
            },
            ..policy(method)
        });
        let policies = policies.collect();
        bench.apply(vec![
            Command::ApplyPolicies {
                tag: ReplyTag(0),
                policies,
            },
            Command::SessionOpened {
                conn: CLIENT,
                session: [1; 16],
            },
        ]);
        let weights = (0..shape.weighted).map(|n| (limit_key(n.into()), n % 7 + 1));
        bench.apply(vec![Command::SetWeights {
            tag: ReplyTag(0),
            method: Arc::clone(&bench.methods[0]),
            weights: Weights::new(weights),
            record: Bytes::from_static(b"weights"),
        }]);
        bench
    }

    /// A group of commands, its dispatch, and its place in the log.
    pub(crate) fn apply(&mut self, commands: Vec<Command>) -> Step {
        let mut step = Step::default();
        for command in commands {
            self.partition.apply(command, self.now, self.now, &mut step);
        }
        self.partition.dispatch(self.now, self.now, &mut step);
        self.partition.place(self.area);
        self.area += 100_000;
        if let Some(log) = &mut self.log {
            let now = self.now;
            log.extend(step.records.drain(..).map(|record| (now, stored(record))));
        }
        step
    }

    pub(crate) fn attach(&mut self, slots: u32) -> Step {
        self.apply(vec![Command::WorkerAttached(WorkerAttach {
            version: "".into(),
            conn: WORKER,
            worker: "w1".into(),
            methods: self.methods.clone(),
            slots,
            held: Vec::new(),
        })])
    }

    pub(crate) fn frame(&mut self) -> Command {
        let buffer = Bytes::from(vec![7u8; 256 * FRAME]);
        self.sequence += 1;
        let key = |index: usize, wanted: bool, groups: u64| {
            let number = (self.sequence * FRAME as u64 + index as u64) % groups;
            wanted.then(|| limit_key(number))
        };
        let limit_keys = self.shape.limit_keys;
        let options = |index: usize| {
            let envelope = if self.shape.envelope {
                Bytes::from_static(&[1; 60])
            } else {
                Bytes::new()
            };
            let priorities = self.shape.priorities;
            let priority = (priorities > 0).then(|| (index as u64 % priorities) as u8);
            (self.shape.envelope || priorities > 0).then(|| {
                Box::new(SubmitOptions {
                    envelope,
                    priority,
                    ..SubmitOptions::default()
                })
            })
        };
        let tasks = (0..FRAME)
            .map(|index| SubmitTask {
                method: Arc::clone(&self.methods[index % self.methods.len()]),
                request: buffer.slice(index * 256..(index + 1) * 256),
                digest: index as u128,
                idempotency_key: key(index, self.shape.idempotency, u64::MAX),
                ordering_key: key(index, self.shape.ordering, 10_000),
                limit_key: key(index, limit_keys > 0, limit_keys.max(1)),
                options: options(index),
            })
            .collect();
        let origin = SubmitOrigin::Session {
            conn: CLIENT,
            session: [1; 16],
            sequence: self.sequence,
        };
        Command::Submit(Submit {
            origin,
            await_results: true,
            tasks,
        })
    }

    /// Submits a frame and sees it through; how many tasks were done.
    pub(crate) fn run(&mut self, submit: Command) -> u64 {
        let mut commands = vec![submit];
        if self.partition.next_timer().is_some_and(|at| at <= self.now) {
            commands.push(Command::Tick);
        }
        let step = self.apply(commands);
        let done = self.finish(step);
        self.now += 1;
        done
    }

    /// Settles what was handed out, and what is handed out then, until nothing is.
    pub(crate) fn finish(&mut self, mut step: Step) -> u64 {
        let mut done = 0;
        loop {
            let batch = frames(std::mem::take(&mut step));
            if batch.is_empty() {
                break;
            }
            for (sequence, attempts) in batch {
                done += attempts.len() as u64;
                let settle = self.settle(attempts);
                let accepted = Command::WorkerAccepted {
                    conn: WORKER,
                    sequence,
                };
                step.effects
                    .extend(self.apply(vec![accepted, settle]).effects);
            }
        }
        done
    }

    pub(crate) fn settle(&mut self, attempts: Vec<Attempt>) -> Command {
        let response = Bytes::from(vec![9u8; 256 * attempts.len()]);
        self.outcomes += 1;
        let outcomes = attempts
            .into_iter()
            .enumerate()
            .map(|(index, attempt)| Outcome {
                task: attempt.task,
                token: attempt.token,
                result: Ok(response.slice(index * 256..(index + 1) * 256)),
            })
            .collect();
        Command::Outcomes {
            conn: WORKER,
            sequence: self.outcomes,
            outcomes,
        }
    }
}

/// A record as the log gives it back: blobs by their place.
pub(crate) fn stored(mut record: Record) -> Record {
    if let Record::Submitted { tasks, .. } = &mut record {
        for task in tasks {
            task.request.bytes = None;
            task.request.at = Some(task.id.0 * 256);
            if task.envelope.len > 0 {
                task.envelope.bytes = None;
                task.envelope.at = Some(task.id.0 * 256 + 256);
            }
        }
    }
    if let Record::Succeeded { tasks } = &mut record {
        for (id, response) in tasks {
            response.bytes = None;
            response.at = Some(id.0 * 256);
        }
    }
    record
}

pub(crate) fn frames(step: Step) -> Vec<(u64, Vec<Attempt>)> {
    let frames = step.effects.into_iter().filter_map(|effect| match effect {
        Effect::Attempts {
            sequence, attempts, ..
        } => Some((sequence, attempts)),
        _ => None,
    });
    frames.collect()
}

pub(crate) fn per_task(what: &str, took: Duration, tasks: u64) {
    let ns = took.as_nanos() / u128::from(tasks.max(1));
    println!(
        "{what:<44} {ns:>6} ns a task, {:>8} tasks/s",
        1_000_000_000 / ns.max(1)
    );
}

pub(crate) fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Processor time of this thread: wall time means little on a machine that others use, too.
pub(crate) fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(0);
    Duration::from_nanos(ns)
}

pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = cpu_time();
    let value = work();
    (value, cpu_time().saturating_sub(start))
}
