//! Decisions: from commands and the passing of time to records and effects.
//!
//! A decision reads the state, makes a record, and takes it in by [`Partition::commit`] as replay would. What
//! follows from it for streams, workers and flows is done behind it.

mod archive;
mod attach;
mod backoff;
mod cancel;
mod control;
mod dispatch;
mod figures;
mod flags;
mod flow;
mod idle;
mod metrics;
mod outcome;
mod redrive;
mod sayings;
mod splits;
mod submit;
mod tick;
mod views;
mod weights;

pub use idle::Busy;

use crate::command::Command;
use crate::effect::{Effect, Reply, TaskResult, TaskState};
use crate::ids::Millis;
use crate::partition::{Partition, Step};
use crate::record::{Failure, Reason, Record};
use crate::state::slab::NONE;
use crate::state::task::{FAR, Task, flag};

impl Partition {
    /// The time to work with: it never goes back.
    pub(crate) fn clock(&mut self, now: Millis) -> Millis {
        if !self.state.indexed {
            self.recover(now);
        }
        self.state.time = self.state.time.max(now.min(FAR));
        self.state.time
    }

    /// Takes one command.
    pub(crate) fn decide(&mut self, command: Command, now: Millis, entropy: u64, step: &mut Step) {
        let now = self.clock(now);
        self.live.seed(entropy);
        match command {
            Command::Submit(submit) => self.submit(submit, now, step),
            Command::SessionOpened { conn, session } => self.session_opened(conn, session, step),
            Command::SessionClosed { conn } => self.session_closed(conn),
            Command::Await {
                conn,
                tasks,
                forget,
                parent,
            } => {
                self.await_results(conn, (&tasks, &forget), parent, now, step);
            }
            Command::WorkerAttached(attach) => self.worker_attached(attach, now, step),
            Command::WorkerDetached { conn, reason } => {
                self.worker_detached(conn, &reason, now, step);
            }
            Command::WorkerAccepted { conn, sequence } => self.worker_accepted(conn, sequence),
            Command::Outcomes {
                conn,
                sequence,
                outcomes,
            } => {
                self.outcomes(conn, sequence, outcomes, now, step);
            }
            Command::HandBack { conn, leases } => self.hand_back(conn, &leases, step),
            Command::Suspend { conn, leases } => self.suspend(conn, &leases, now, step),
            Command::Progress { conn, entries } => self.progress(conn, entries),
            Command::WorkerResized { conn, slots } => self.worker_resized(conn, slots),
            Command::WorkerDraining { conn } => self.worker_draining(conn, now),
            Command::Cancel { tag, task, reason } => self.cancel(tag, task, &reason, step),
            Command::Watch { conn, task } => self.watch(conn, task, step),
            Command::Unwatch { conn } => {
                self.live.watchers.remove(&mut self.state.tasks, conn);
            }
            Command::ArchiveWritten { archive, written } => {
                self.archive_written(archive, written, step);
            }
            Command::Tick => self.tick(now, step),
            other => self.control(other, now, step),
        }
        self.settle(step);
    }

    /// Takes a record in and hands it out.
    pub(crate) fn commit(&mut self, record: Record, step: &mut Step) {
        self.state.evolve(&record, self.state.time);
        step.records.push(record);
    }

    /// What is left to do at the end of a step.
    pub(crate) fn settle(&mut self, step: &mut Step) {
        self.reap(step);
        self.wake_flows(step);
        self.watch_sessions();
        self.live.flush_stops(&mut step.effects);
        self.live.streams.flush(&mut step.effects);
        for (slot, conns) in self.live.watchers.take_changed(&mut self.state.tasks) {
            let view = self.view(&self.state.tasks[slot]);
            for conn in conns {
                step.effects.push(Effect::TaskChanged {
                    conn,
                    task: Box::new(view.clone()),
                });
            }
        }
        if let Some(tag) = self.live.failures.take_due() {
            let reply = Reply::Done;
            step.effects.push(Effect::Reply { tag, reply });
        }
        if std::mem::take(&mut self.state.blobs.released) {
            step.effects.push(Effect::LogReleasable);
        }
    }

    /// A task became final: tells who waits, and its flow; looks after its own children.
    pub(crate) fn ended(&mut self, slot: u32) {
        let task = &self.state.tasks[slot];
        if task.waiter != NONE {
            let result = self.result(&self.state.tasks[slot]);
            let tasks = &mut self.state.tasks;
            self.live.streams.deliver(tasks, slot, |_| result.clone());
        }
        if self.state.tasks[slot].rare.is_some() {
            self.child_ended(slot);
        }
        self.live.watchers.changed(&self.state.tasks, slot);
        for (parent, token) in self.live.streams.take_runs(slot) {
            self.awaited_ended(parent, token, true);
        }
    }

    /// The final outcome of a task.
    pub(crate) fn result(&self, task: &Task) -> TaskResult {
        let result = match task.state {
            TaskState::Succeeded => Ok(self.state.blobs.response(task)),
            state => Err((state, self.state.failure(task).unwrap_or_default())),
        };
        TaskResult {
            task: task.id,
            result,
        }
    }

    /// Whether nothing of the task's policy forbids another start after this one.
    pub(crate) fn is_at_most_once(&self, slot: u32) -> bool {
        self.state
            .methods
            .policy(self.state.tasks[slot].method)
            .at_most_once
    }

    /// Whether a failed task of the method is kept apart.
    pub(crate) fn dead_letters(&self, slot: u32) -> bool {
        self.state
            .methods
            .policy(self.state.tasks[slot].method)
            .dead_letter_retention_ms
            > 0
    }

    /// Marks a task that is watched as changed.
    pub(crate) fn changed(&mut self, slot: u32) {
        if self.state.tasks[slot].flag(flag::WATCHED) {
            self.live.watchers.changed(&self.state.tasks, slot);
        }
    }
}

/// A failure of our own.
pub(crate) fn failure(reason: Reason, code: u32, message: String) -> Failure {
    Failure {
        reason: Some(reason),
        code,
        message: message.into(),
        ..Failure::default()
    }
}
