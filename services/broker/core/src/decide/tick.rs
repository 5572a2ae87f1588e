//! What the passing of time brings: starts, ends of backoffs, deadlines, ends of retention; and recovery.

use super::failure;
use super::outcome::FailedBy;
use crate::effect::{StopReason, TaskState};
use crate::ids::{Millis, SessionId, TaskId};
use crate::live::alarms::Alarm;
use crate::metrics::LeaseEnd;
use crate::partition::{Partition, Step};
use crate::record::{ExpiryCause, Reason, Record};
use crate::state::slab::NONE;
use crate::state::table::Found;
use std::sync::Arc;

/// Timers handled in one tick: bounds the pause when very many are due at once. The next tick is due at once then.
const TIMERS_MAX: usize = 4096;

/// Alarms handled in one tick.
const ALARMS_MAX: usize = 256;

/// Due tasks, by what becomes of them.
#[derive(Default)]
struct Due {
    unstarted: Vec<u32>,
    running: Vec<u32>,
    timed_out: Vec<u32>,
    waiting: Vec<u32>,
    forgotten: Vec<u32>,
}

impl Partition {
    pub(crate) fn next_instant(&self) -> Option<Millis> {
        let unsorted = !self.state.methods.unsorted.is_empty();
        if unsorted || !self.live.reaping.is_empty() || !self.live.wakeups.is_empty() {
            return Some(self.state.time);
        }
        let state = &self.state;
        [
            state.wheel.next(),
            state.methods.limiters.next(),
            state.leaving.next(),
            state.archives.next(state.time),
            self.live.alarms.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn tick(&mut self, now: Millis, step: &mut Step) {
        let (methods, tasks) = (&mut self.state.methods, &mut self.state.tasks);
        methods.limits_due(tasks, now, TIMERS_MAX);
        let mut due = Due::default();
        for _ in 0..TIMERS_MAX {
            let Some(slot) = self.state.wheel.pop(&mut self.state.tasks, now) else {
                break;
            };
            self.sort_due(slot, now, &mut due);
        }
        self.expire(due.unstarted, ExpiryCause::BeforeStart, step);
        self.expire(due.running, ExpiryCause::WhileRunning, step);
        for slot in due.timed_out {
            self.time_out(slot, now, step);
        }
        self.unload_waiting(&due.waiting, step);
        let mut forgotten: Vec<TaskId> = due
            .forgotten
            .iter()
            .map(|slot| self.state.tasks[*slot].id)
            .collect();
        forgotten.extend(self.leave(now));
        self.forget(forgotten, step);
        self.end_archives(now, step);
        self.ring(now, step);
    }

    fn sort_due(&mut self, slot: u32, now: Millis, due: &mut Due) {
        let task = &self.state.tasks[slot];
        let past = task.expire_at <= now;
        match task.state {
            TaskState::Running if past => due.running.push(slot),
            TaskState::Running if self.can_be_unloaded(slot) => due.waiting.push(slot),
            TaskState::Running => due.timed_out.push(slot),
            state if state.is_final() => match self.state.kept_until(task) {
                Some(at) if at <= now => due.forgotten.push(slot),
                // The policy, or the flow it belongs to, changed meanwhile.
                _ => self.state.arm(slot),
            },
            _ if past => due.unstarted.push(slot),
            TaskState::Scheduled | TaskState::Backoff => {
                self.state.awaken(slot);
                self.changed(slot);
            }
            _ => self.state.arm(slot),
        }
    }

    /// The deadline of tasks has passed.
    pub(crate) fn expire(&mut self, slots: Vec<u32>, cause: ExpiryCause, step: &mut Step) {
        if slots.is_empty() {
            return;
        }
        for slot in &slots {
            self.stop_attempt(*slot, StopReason::Expired);
        }
        let tasks = slots
            .iter()
            .map(|slot| self.state.tasks[*slot].id)
            .collect();
        self.commit(Record::Expired { tasks, cause }, step);
        slots.into_iter().for_each(|slot| self.ended(slot));
    }

    /// An attempt took longer than its policy allows.
    fn time_out(&mut self, slot: u32, now: Millis, step: &mut Step) {
        let task = &self.state.tasks[slot];
        let method = task.method;
        let limit = self.state.methods.policy(method).attempt_timeout_ms;
        let methods = &mut self.state.methods;
        methods.count_lease_end(method, LeaseEnd::AttemptTimedOut);
        self.tally(slot, 4, now);
        self.stop_attempt(slot, StopReason::AttemptTimedOut);
        let failure = failure(
            Reason::AttemptTimedOut,
            4,
            format!("the attempt ran longer than {limit} ms"),
        );
        let by = FailedBy::Attempt { pushback: None };
        self.fail_attempt(slot, failure, by, now, step);
    }

    /// Tasks whose retention is over.
    fn forget(&mut self, tasks: Vec<TaskId>, step: &mut Step) {
        if !tasks.is_empty() {
            self.commit(Record::Dropped { tasks }, step);
        }
    }

    /// Retired tasks whose retention is over.
    fn leave(&mut self, now: Millis) -> Vec<TaskId> {
        let mut ids = self.state.leaving.take(now, TIMERS_MAX);
        ids.retain(|id| {
            let task = match self.state.tasks.seek(*id) {
                Some(Found::Retired(task)) => task,
                Some(Found::Slot(slot)) => {
                    // It has a timer of its own; it stays to be found while it is kept.
                    self.state.settle_later(slot, now);
                    return false;
                }
                None => return false,
            };
            let until = self.state.retained_until(&task, 0);
            if until > now {
                // The policy changed meanwhile.
                self.state.leaving.add(until, *id);
            }
            until <= now
        });
        ids
    }

    fn ring(&mut self, now: Millis, step: &mut Step) {
        let mut idle = Vec::new();
        for _ in 0..ALARMS_MAX {
            match self.live.alarms.pop(now) {
                Some(Alarm::Reattach) => self.reattach_over(now, step),
                Some(Alarm::Held(number)) => self.held_for_long(number, now, step),
                Some(Alarm::Gate(method)) => self.gate_over(method, now),
                Some(Alarm::Split(route)) => self.split_alone(route, now),
                Some(Alarm::WorkerGate(worker)) => self.worker_gate_over(worker, now),
                Some(Alarm::Session(session)) => {
                    if self.is_idle(session, now) {
                        idle.push(session);
                    }
                }
                None => break,
            }
        }
        if !idle.is_empty() {
            self.commit(Record::SessionsDropped { sessions: idle }, step);
        }
    }

    /// Whether a session was idle for too long; else its end is watched on.
    fn is_idle(&mut self, id: SessionId, now: Millis) -> bool {
        let Some(session) = self.state.sessions.sessions.get(&id) else {
            return false;
        };
        let used = session.last_used.max(self.live.since);
        let due = used.saturating_add(self.config.session_ttl_ms);
        let open = self.live.streams.current(&id).is_some();
        if due <= now && !open {
            return true;
        }
        let again = if due > now {
            due
        } else {
            now.saturating_add(self.config.session_ttl_ms)
        };
        self.live.alarms.set(again, Alarm::Session(id));
        false
    }

    /// Watches the end of sessions that are new.
    pub(crate) fn watch_sessions(&mut self) {
        while let Some(id) = self.state.sessions.made.pop() {
            if let Some(session) = self.state.sessions.sessions.get(&id) {
                let used = session.last_used.max(self.live.since);
                let due = used.saturating_add(self.config.session_ttl_ms);
                self.live.alarms.set(due, Alarm::Session(id));
            }
        }
    }

    /// Makes the state of the log the state to work with.
    pub(crate) fn recover(&mut self, now: Millis) {
        if self.state.indexed {
            return;
        }
        self.state.index(now);
        self.state.methods.count_anew();
        let now = self.state.time;
        self.live.since = now;
        for slot in self.state.tasks.slots().collect::<Vec<u32>>() {
            self.recover_task(slot);
        }
        if !self.live.orphans.is_empty() {
            let due = now.saturating_add(self.config.reattach_grace_ms);
            self.live.alarms.set(due, Alarm::Reattach);
        }
        self.watch_sessions();
    }

    fn recover_task(&mut self, slot: u32) {
        let task = &self.state.tasks[slot];
        let (id, token) = (task.id, task.token());
        let unfinished = task.family().map_or(0, |family| family.unfinished);
        match task.state {
            TaskState::Running => {
                let name = self.lease(slot).map_or(NONE, |lease| lease.name);
                if let Some(worker) = self.state.names.get(name) {
                    let worker = Arc::clone(worker);
                    self.live
                        .orphans
                        .entry(worker)
                        .or_default()
                        .push((id, token));
                }
            }
            // The record that wakes it was lost with the crash, or never written.
            TaskState::Suspended if unfinished == 0 => self.live.wakeups.push(id),
            TaskState::Failed | TaskState::Cancelled | TaskState::Expired if unfinished > 0 => {
                self.live.reaping.push_back((id, None));
            }
            _ => {}
        }
    }
}
