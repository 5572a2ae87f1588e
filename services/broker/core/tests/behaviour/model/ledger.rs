//! The reference: what tasks there are and where they stand, told by the records alone. Every record
//! that must not be, is a panic.

use super::policies;
use crate::limits_property::Bucket;
use plait_broker_core::effect::TaskState;
use plait_broker_core::ids::*;
use plait_broker_core::policy::MethodPolicy;
use plait_broker_core::record::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) method: String,
    pub(super) state: TaskState,
    pub(super) created_at: Millis,
    pub(super) start_at: Millis,
    pub(super) expire_at: Millis,
    pub(super) key: Option<String>,
    pub(super) order: Option<String>,
    pub(super) limit: Option<String>,
    pub(super) parent: Option<(TaskId, ChildKey)>,
    pub(super) attempt: u32,
    pub(super) token: Token,
    pub(super) worker: Option<String>,
    pub(super) ended_at: Millis,
    pub(super) redriven: u32,
    /// The archive file it is in.
    pub(super) archive: Option<ArchiveId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    pub(super) tasks: BTreeMap<TaskId, Entry>,
    pub(super) paused: BTreeSet<String>,
    policies: BTreeMap<String, MethodPolicy>,
    next: u64,
    tokens: BTreeSet<Token>,
    /// What is left of rates, by method and, where each has the rate for itself, key.
    buckets: BTreeMap<(String, Option<String>), Bucket>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let policies = policies::all();
        let policies = policies
            .into_iter()
            .map(|policy| (policy.method.to_string(), policy));
        Self {
            policies: policies.collect(),
            next: 1,
            ..Self::default()
        }
    }

    pub(super) fn policy(&self, id: TaskId) -> &MethodPolicy {
        &self.policies[&self.tasks[&id].method]
    }

    pub(super) fn unfinished(&self) -> impl Iterator<Item = (&TaskId, &Entry)> {
        self.tasks
            .iter()
            .filter(|(_, entry)| !entry.state.is_final())
    }

    pub(super) fn take(&mut self, record: &Record, now: Millis) {
        match record {
            Record::Submitted { tasks, .. } => {
                tasks.iter().for_each(|task| self.submitted(task, now));
            }
            Record::Started { worker, starts } => {
                starts
                    .iter()
                    .for_each(|start| self.started(worker, start, now));
            }
            Record::Succeeded { tasks } => {
                tasks
                    .iter()
                    .for_each(|(id, _)| self.ended(*id, TaskState::Succeeded, now));
            }
            Record::Retried {
                task,
                failure,
                ready_at,
                ..
            } => {
                self.retried(*task, failure, *ready_at, now);
            }
            Record::Returned { tasks, .. } => tasks.iter().for_each(|id| self.returned(*id)),
            Record::Suspended { tasks } => tasks.iter().for_each(|id| self.suspended(*id)),
            Record::Failed {
                task,
                failure,
                dead_letter,
            } => {
                self.failed(*task, failure, *dead_letter, now);
            }
            Record::Cancelled { task, .. } => self.cancelled(*task, now),
            Record::Expired { tasks, cause } => {
                tasks.iter().for_each(|id| self.expired(*id, *cause, now));
            }
            Record::Redriven { tasks } => {
                tasks
                    .iter()
                    .for_each(|(id, at)| self.redriven(*id, *at, now));
            }
            Record::Dropped { tasks } => {
                for id in tasks {
                    assert!(self.tasks[id].archive.is_none(), "{id} is in a file");
                    self.dropped(*id, now);
                }
            }
            Record::Archived { archive, tasks } => {
                for id in tasks {
                    let entry = self.entry(*id);
                    assert!(entry.state.is_final() && entry.archive.is_none());
                    entry.archive = Some(*archive);
                }
            }
            Record::ArchivesDropped { archives } => {
                let of = |entry: &Entry| entry.archive.is_some_and(|a| archives.contains(&a));
                let over = self.tasks.iter().filter(|(_, entry)| of(entry));
                let over: Vec<TaskId> = over.map(|(id, _)| *id).collect();
                over.into_iter().for_each(|id| self.dropped(id, now));
            }
            Record::Restored { archive, tasks } => {
                for image in tasks {
                    let entry = self.entry(image.id());
                    assert_eq!(
                        (entry.archive.take(), entry.state),
                        (Some(*archive), image.state)
                    );
                }
            }
            Record::QueuePaused { queue, .. } => drop(self.paused.insert(queue.to_string())),
            Record::QueueResumed { queue } => drop(self.paused.remove(&**queue)),
            _ => {}
        }
    }

    fn entry(&mut self, id: TaskId) -> &mut Entry {
        self.tasks
            .get_mut(&id)
            .unwrap_or_else(|| panic!("{id} is not known"))
    }

    fn running(&mut self, id: TaskId) -> &mut Entry {
        let entry = self.entry(id);
        assert_eq!(entry.state, TaskState::Running, "{id}");
        entry
    }

    fn submitted(&mut self, new: &NewTask, now: Millis) {
        assert_eq!(new.id.0, self.next, "numbers are dense");
        self.next += 1;
        let policy = &self.policies[&*new.method];
        assert!(
            new.expire_at <= now + policy.deadline_ms,
            "I5: no deadline is widened"
        );
        if let Some(key) = &new.idempotency_key {
            let twin = self.tasks.iter().find(|(_, entry)| {
                entry.method == *new.method
                    && entry.key.as_deref() == Some(key)
                    && (!entry.state.is_final()
                        || now < entry.created_at + policy.idempotency_window_ms)
            });
            assert!(twin.is_none(), "I2: {key} stands for {twin:?} already");
        }
        if let Some((parent, key)) = &new.parent {
            let flow = &self.tasks[parent];
            assert_eq!(
                flow.state,
                TaskState::Running,
                "only a running flow has new children"
            );
            assert!(
                new.expire_at <= flow.expire_at,
                "I5: a child ends with its flow"
            );
            let twin = self.tasks.values().find(|entry| {
                entry
                    .parent
                    .as_ref()
                    .is_some_and(|own| own == &(*parent, key.clone()))
            });
            assert!(
                twin.is_none_or(|twin| flow.redriven > 0 && twin.state.is_final()),
                "{twin:?}"
            );
        }
        let entry = Entry {
            method: new.method.to_string(),
            state: if new.start_at > now {
                TaskState::Scheduled
            } else {
                TaskState::Ready
            },
            created_at: now,
            start_at: new.start_at,
            expire_at: new.expire_at,
            key: new.idempotency_key.as_ref().map(ToString::to_string),
            order: new.ordering_key.as_ref().map(ToString::to_string),
            limit: new.limit_key.as_ref().map(ToString::to_string),
            parent: new.parent.clone(),
            attempt: 0,
            token: Token(0),
            worker: None,
            ended_at: 0,
            redriven: 0,
            archive: None,
        };
        self.tasks.insert(new.id, entry);
    }

    fn started(&mut self, worker: &str, start: &Start, now: Millis) {
        let policy = self.policy(start.task).clone();
        assert!(
            !self.paused.contains(&*policy.queue),
            "a paused queue starts nothing"
        );
        self.check_order(start.task, &policy);
        self.check_limits(start.task, &policy, now);
        assert!(
            self.tokens.insert(start.token),
            "I3: a token is granted once"
        );
        let entry = self.entry(start.task);
        let waits = matches!(entry.state, TaskState::Scheduled | TaskState::Backoff);
        let ready = entry.state == TaskState::Ready || (waits && entry.start_at <= now);
        assert!(ready, "I7: {} starts from {:?}", start.task, entry.state);
        assert!(
            now < entry.expire_at,
            "I6: no attempt starts past the deadline"
        );
        assert_eq!(start.attempt, entry.attempt + 1);
        assert!(start.attempt <= policy.max_attempts, "I11");
        assert!(start.token > entry.token, "I3: tokens grow");
        entry.state = TaskState::Running;
        entry.attempt = start.attempt;
        entry.token = start.token;
        entry.worker = Some(worker.to_owned());
    }

    /// I4: one unfinished at a time, in submit order; one that was begun goes before one that was not.
    fn check_order(&self, id: TaskId, policy: &MethodPolicy) {
        let own = &self.tasks[&id];
        let Some(order) = &own.order else { return };
        let others = self.unfinished().filter(|(other, entry)| {
            **other != id
                && entry.order.as_ref() == Some(order)
                && self.policies[&entry.method].queue == policy.queue
        });
        for (other, entry) in others {
            let idle = entry.attempt == 0
                && matches!(entry.state, TaskState::Ready | TaskState::Scheduled);
            assert!(idle, "I4: {id} starts while {other} is {:?}", entry.state);
            assert!(
                own.attempt > 0 || *other > id,
                "I4: {id} starts before {other}"
            );
        }
    }

    /// No more run, and no more begin, than may.
    fn check_limits(&mut self, id: TaskId, policy: &MethodPolicy, now: Millis) {
        let (own, limits) = (&self.tasks[&id], policy.limits);
        let runs = self
            .tasks
            .values()
            .filter(|entry| entry.state == TaskState::Running && entry.method == own.method);
        let (all, same) = runs.fold((0, 0), |(all, same), entry| {
            (all + 1, same + u32::from(entry.limit == own.limit))
        });
        let full = |most: u32, count: u32| most > 0 && count >= most;
        assert!(!full(limits.running_max, all), "{id}: {all} run");
        assert!(!full(limits.running_per_key_max, same), "{id}: {same} run");
        if let Some(rate) = limits.rate {
            let key = own.limit.clone().filter(|_| limits.rate_by_key);
            let bucket = self.buckets.entry((own.method.clone(), key));
            let bucket = bucket.or_insert_with(|| Bucket::new(rate));
            bucket.fill(rate, now);
            assert!(bucket.may(rate), "{id} begins too early at {now}");
            bucket.take(rate);
        }
    }

    fn retried(&mut self, id: TaskId, failure: &Failure, ready_at: Millis, now: Millis) {
        let policy = self.policy(id).clone();
        let entry = self.running(id);
        assert!(!policy.at_most_once, "at most once is never repeated");
        assert!(
            entry.attempt < policy.max_attempts,
            "I11: {id} had its attempts"
        );
        assert!(ready_at < entry.expire_at && ready_at >= now);
        let lost = failure.reason == Some(Reason::WorkerLost);
        assert!(lost || policy.retryable.contains(failure.code));
        entry.state = if ready_at > now {
            TaskState::Backoff
        } else {
            TaskState::Ready
        };
        entry.start_at = ready_at;
        entry.worker = None;
    }

    fn returned(&mut self, id: TaskId) {
        let entry = self.entry(id);
        assert!(matches!(
            entry.state,
            TaskState::Running | TaskState::Suspended
        ));
        entry.state = TaskState::Ready;
        entry.attempt -= 1;
        entry.worker = None;
    }

    fn suspended(&mut self, id: TaskId) {
        assert!(!self.policy(id).at_most_once);
        let entry = self.running(id);
        entry.state = TaskState::Suspended;
        entry.worker = None;
    }

    fn failed(&mut self, id: TaskId, failure: &Failure, dead_letter: bool, now: Millis) {
        let policy = self.policy(id).clone();
        let entry = self.running(id);
        let retryable =
            policy.retryable.contains(failure.code) || failure.reason == Some(Reason::WorkerLost);
        let in_time = entry.expire_at.saturating_sub(now)
            > policy.max_backoff_ms.max(super::world::PUSHBACK_MAX);
        if retryable && in_time && !policy.at_most_once {
            assert_eq!(
                entry.attempt, policy.max_attempts,
                "I11: exactly its attempts"
            );
        }
        assert_eq!(dead_letter, policy.dead_letter_retention_ms > 0);
        self.ended(id, TaskState::Failed, now);
    }

    fn cancelled(&mut self, id: TaskId, now: Millis) {
        self.end(id, TaskState::Cancelled, now);
    }

    fn expired(&mut self, id: TaskId, cause: ExpiryCause, now: Millis) {
        let entry = self.entry(id);
        assert!(entry.expire_at <= now, "{id} expires too early");
        let running = entry.state == TaskState::Running;
        assert_eq!(running, cause == ExpiryCause::WhileRunning);
        self.end(id, TaskState::Expired, now);
    }

    fn ended(&mut self, id: TaskId, state: TaskState, now: Millis) {
        self.running(id);
        self.end(id, state, now);
    }

    fn end(&mut self, id: TaskId, state: TaskState, now: Millis) {
        let entry = self.entry(id);
        assert!(
            !entry.state.is_final(),
            "I7: {id} ends twice: {:?}, {state:?}",
            entry.state
        );
        entry.state = state;
        entry.ended_at = now;
        entry.worker = None;
    }

    fn redriven(&mut self, id: TaskId, expire_at: Millis, now: Millis) {
        let policy = self.policy(id).clone();
        let entry = self.entry(id);
        assert_eq!(entry.state, TaskState::Failed);
        assert_eq!(expire_at, now + policy.deadline_ms);
        entry.state = TaskState::Ready;
        entry.attempt = 0;
        entry.expire_at = expire_at;
        entry.redriven += 1;
    }

    fn dropped(&mut self, id: TaskId, now: Millis) {
        let policy = self.policy(id).clone();
        let entry = &self.tasks[&id];
        assert!(entry.state.is_final());
        let mut from = entry.ended_at;
        if let Some((parent, _)) = &entry.parent
            && let Some(parent) = self.tasks.get(parent)
            && entry.redriven == 0
            && parent.redriven == 0
        {
            assert!(
                parent.state.is_final(),
                "children stay while their flow is unfinished"
            );
            from = from.max(parent.ended_at);
        }
        assert!(
            now >= from + policy.retention_ms,
            "{id} is dropped too early"
        );
        assert!(self.may_be_forgotten(id, now), "{id} is dropped too early");
        self.tasks.remove(&id);
    }

    /// Whether the retention of a task without a family is over, and the window of its key.
    pub(super) fn may_be_forgotten(&self, id: TaskId, now: Millis) -> bool {
        let (entry, policy) = (&self.tasks[&id], self.policy(id));
        let dead = entry.state == TaskState::Failed && policy.dead_letter_retention_ms > 0;
        let retention = if dead {
            policy.dead_letter_retention_ms
        } else {
            policy.retention_ms
        };
        let window = entry.created_at + policy.idempotency_window_ms;
        now >= entry.ended_at + retention && (entry.key.is_none() || now >= window)
    }
}
