//! A partition with a clock, a log and an outbox, for tests.

use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{CodeSet, MethodPolicy};
use plait_broker_core::record::*;
use plait_broker_core::{Config, Partition, Step};
use std::sync::Arc;

pub(crate) const START: Millis = 1_700_000_000_000;
pub(crate) const METHOD: &str = "/shop.v1.Orders/Charge";
pub(crate) const OTHER: &str = "/shop.v1.Orders/Refund";
pub(crate) const CLIENT: ConnId = ConnId(1);
pub(crate) const WORKER: ConnId = ConnId(2);
pub(crate) const SESSION: SessionId = [7; 16];

pub(crate) const UNAVAILABLE: u32 = 14;
pub(crate) const INVALID_ARGUMENT: u32 = 3;

pub(crate) fn policy(method: &str) -> MethodPolicy {
    MethodPolicy {
        method: method.into(),
        queue: "orders".into(),
        deadline_ms: 3_600_000,
        attempt_timeout_ms: 60_000,
        max_attempts: 20,
        initial_backoff_ms: 200,
        max_backoff_ms: 60_000,
        multiplier_permille: 2000,
        retryable: CodeSet(1 << 14 | 1 << 8 | 1 << 10 | 1 << 4 | 1 << 13 | 1 << 2),
        needs_idempotency_key: false,
        needs_ordering_key: false,
        idempotency_window_ms: 86_400_000,
        priority: 4,
        latency: plait_broker_core::policy::Latency::default(),
        queue_weight: 0,
        at_most_once: false,
        retention_ms: 86_400_000,
        dead_letter_retention_ms: 0,
        limits: plait_broker_core::policy::Limits::default(),
        source: Bytes::new(),
    }
}

pub(crate) fn config() -> Config {
    Config {
        epoch: 1,
        resident_bytes_max: 1 << 30,
        queue_tasks_max: 1_000_000,
        reattach_grace_ms: 5_000,
        divergence_grace_ms: 200,
        session_ttl_ms: 3_600_000,
        finished_in_memory: 1_000_000,
        frame_attempts_max: 128,
    }
}

pub(crate) fn task(method: &str) -> SubmitTask {
    SubmitTask {
        method: method.into(),
        request: Bytes::from_static(b"request"),
        digest: 1,
        idempotency_key: None,
        ordering_key: None,
        limit_key: None,
        options: None,
    }
}

pub(crate) fn keyed(method: &str, key: &str, digest: u128) -> SubmitTask {
    SubmitTask {
        idempotency_key: Some(key.into()),
        digest,
        ..task(method)
    }
}

pub(crate) fn ordered(method: &str, key: &str) -> SubmitTask {
    SubmitTask {
        ordering_key: Some(key.into()),
        ..task(method)
    }
}

pub(crate) fn with(task: SubmitTask, options: SubmitOptions) -> SubmitTask {
    SubmitTask {
        options: Some(Box::new(options)),
        ..task
    }
}

pub(crate) fn child(
    method: &str,
    digest: u128,
    parent: (TaskId, Token),
    name: Option<&str>,
) -> SubmitTask {
    let parent = Some((parent.0, parent.1, name.map(Into::into)));
    with(
        SubmitTask {
            digest,
            ..task(method)
        },
        SubmitOptions {
            parent,
            ..SubmitOptions::default()
        },
    )
}

pub(crate) fn status(code: u32) -> Failure {
    Failure {
        code,
        message: format!("code {code}").into(),
        details: Bytes::from_static(b"details"),
        trailers: Bytes::from_static(b"trailers"),
        ..Failure::default()
    }
}

/// A partition under test.
#[derive(Debug)]
pub(crate) struct Harness {
    pub(crate) partition: Partition,
    pub(crate) config: Config,
    pub(crate) now: Millis,
    /// Every record with its time, as the log has them.
    pub(crate) log: Vec<(Millis, Record)>,
    pub(crate) sequence: u64,
    pub(crate) outcome_sequence: u64,
    entropy: u64,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with_policies(config(), vec![policy(METHOD), policy(OTHER)])
    }

    pub(crate) fn with_policies(config: Config, policies: Vec<MethodPolicy>) -> Self {
        let mut harness = Self {
            partition: Partition::new(config.clone()),
            config,
            now: START,
            log: Vec::new(),
            sequence: 0,
            outcome_sequence: 0,
            entropy: 42,
        };
        harness.partition.recovered(START);
        harness.apply(Command::ApplyPolicies {
            tag: ReplyTag(0),
            policies,
        });
        harness.apply(Command::SessionOpened {
            conn: CLIENT,
            session: SESSION,
        });
        harness
    }

    /// One command, and the dispatch after it.
    pub(crate) fn apply(&mut self, command: Command) -> Vec<Effect> {
        let mut step = Step::default();
        self.entropy = self
            .entropy
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.partition
            .apply(command, self.now, self.entropy, &mut step);
        self.partition.dispatch(self.now, self.entropy, &mut step);
        self.log
            .extend(step.records.into_iter().map(|record| (self.now, record)));
        step.effects
    }

    pub(crate) fn attach(
        &mut self,
        conn: ConnId,
        worker: &str,
        methods: &[&str],
        slots: u32,
    ) -> Vec<Effect> {
        self.attach_with(conn, worker, methods, slots, Vec::new())
    }

    pub(crate) fn attach_with(
        &mut self,
        conn: ConnId,
        worker: &str,
        methods: &[&str],
        slots: u32,
        held: Vec<(TaskId, Token)>,
    ) -> Vec<Effect> {
        self.apply(Command::WorkerAttached(WorkerAttach {
            version: "".into(),
            conn,
            worker: worker.into(),
            methods: methods.iter().map(|m| (*m).into()).collect(),
            slots,
            held,
        }))
    }

    pub(crate) fn submit(&mut self, tasks: Vec<SubmitTask>) -> Vec<Effect> {
        self.sequence += 1;
        let origin = SubmitOrigin::Session {
            conn: CLIENT,
            session: SESSION,
            sequence: self.sequence,
        };
        self.apply(Command::Submit(Submit {
            origin,
            await_results: true,
            tasks,
        }))
    }

    /// Submits one task that must be accepted as new.
    pub(crate) fn submit_one(&mut self, task: SubmitTask) -> (TaskId, Vec<Effect>) {
        let effects = self.submit(vec![task]);
        let accepted = acceptance(&effects);
        assert!(accepted.refusals.is_empty(), "{:?}", accepted.refusals);
        (TaskId(accepted.tasks[0]), effects)
    }

    pub(crate) fn accept(&mut self, conn: ConnId, sequence: u64) -> Vec<Effect> {
        self.apply(Command::WorkerAccepted { conn, sequence })
    }

    pub(crate) fn outcome(
        &mut self,
        conn: ConnId,
        task: TaskId,
        token: Token,
        result: Result<Bytes, (Failure, Option<u64>)>,
    ) -> Vec<Effect> {
        self.outcome_sequence += 1;
        let outcomes = vec![Outcome {
            task,
            token,
            result,
        }];
        self.apply(Command::Outcomes {
            conn,
            sequence: self.outcome_sequence,
            outcomes,
        })
    }

    pub(crate) fn succeed(&mut self, conn: ConnId, attempt: &Attempt) -> Vec<Effect> {
        self.outcome(
            conn,
            attempt.task,
            attempt.token,
            Ok(Bytes::from_static(b"response")),
        )
    }

    pub(crate) fn fail(&mut self, conn: ConnId, attempt: &Attempt, code: u32) -> Vec<Effect> {
        self.outcome(conn, attempt.task, attempt.token, Err((status(code), None)))
    }

    /// Lets time pass, ticking exactly when the partition asks for it.
    pub(crate) fn advance(&mut self, ms: u64) -> Vec<Effect> {
        let until = self.now + ms;
        let mut effects = Vec::new();
        for _ in 0..1_000_000 {
            match self.partition.next_timer() {
                Some(at) if at <= until => {
                    self.now = self.now.max(at);
                    effects.extend(self.apply(Command::Tick));
                }
                _ => {
                    self.now = until;
                    return effects;
                }
            }
        }
        panic!("timers never come to rest");
    }

    pub(crate) fn view(&self, task: TaskId) -> TaskView {
        self.partition.task(task).expect("the task is known")
    }

    pub(crate) fn state(&self, task: TaskId) -> TaskState {
        self.view(task).state
    }

    /// What a snapshot would hold now.
    pub(crate) fn image(&mut self) -> Vec<Record> {
        self.partition.image(self.now).collect()
    }

    /// A partition that replays the whole log.
    pub(crate) fn replayed(&self) -> Partition {
        let mut partition = Partition::new(Config {
            epoch: self.config.epoch + 1,
            ..self.config.clone()
        });
        for (time, record) in &self.log {
            partition.replay(record.clone(), *time);
        }
        partition
    }

    /// The broker crashes and comes back with what is in the log.
    pub(crate) fn restart(&mut self) {
        self.partition = self.replayed();
        self.config.epoch += 1;
        self.partition.recovered(self.now);
    }
}

/// The answer to a submission on the stream.
pub(crate) fn acceptance(effects: &[Effect]) -> Acceptance {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Accepted { acceptance, .. } => Some(acceptance.clone()),
        Effect::Reply {
            reply: Reply::Accepted(acceptance),
            ..
        } => Some(acceptance.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no acceptance in {effects:?}"))
}

/// Every attempt sent to a worker's stream.
pub(crate) fn attempts(effects: &[Effect], to: ConnId) -> Vec<Attempt> {
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::Attempts { conn, attempts, .. } if *conn == to => Some(attempts.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

/// The only attempt sent to a worker's stream.
pub(crate) fn attempt(effects: &[Effect], to: ConnId) -> Attempt {
    let mut all = attempts(effects, to);
    assert_eq!(all.len(), 1, "one attempt in {effects:?}");
    all.remove(0)
}

/// Every result sent to a stream.
pub(crate) fn results(effects: &[Effect], to: ConnId) -> Vec<TaskResult> {
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::Results { conn, results } if *conn == to => Some(results.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

/// Outcomes that were refused.
pub(crate) fn refused(effects: &[Effect]) -> Vec<(TaskId, Token, Error)> {
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::Settled { refused, .. } => Some(refused.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

/// Every attempt that a stream is told to stop.
pub(crate) fn stops(effects: &[Effect], to: ConnId) -> Vec<(TaskId, Token, StopReason)> {
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::Stop { conn, entries } if *conn == to => Some(entries.clone()),
        _ => None,
    });
    frames.flatten().collect()
}

/// The reply to a call.
pub(crate) fn reply(effects: &[Effect]) -> Reply {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply, .. } => Some(reply.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no reply in {effects:?}"))
}

pub(crate) fn name(text: &str) -> Arc<str> {
    text.into()
}
