//! The state of a partition: what survives a crash, and the indices that follow from it.
//!
//! Only [`evolve`](State::evolve) changes what survives. Ready lists, ordering lines, timers and
//! counts are derived: they are not kept while the log is replayed, and are built once afterwards.

mod accept;
pub(crate) mod archived_keys;
pub(crate) mod archives;
mod archiving;
pub(crate) mod blobs;
pub(crate) mod dedup;
mod endings;
mod evolve;
pub(crate) mod families;
mod image;
mod imaging;
pub(crate) mod kv;
mod lanes;
pub(crate) mod leases;
#[cfg(test)]
mod leftovers;
mod limiting;
pub(crate) mod limits;
pub(crate) mod lines;
mod list;
pub(crate) mod methods;
pub(crate) mod names;
mod pages;
pub(crate) mod retired;
pub(crate) mod sessions;
mod sides;
pub(crate) mod slab;
pub(crate) mod slots;
pub(crate) mod table;
pub(crate) mod task;
pub(crate) mod timeline;
pub(crate) mod totals;
mod turns;
mod weighing;
mod wheel;

pub(crate) use endings::PARENT_ENDED;

use crate::effect::TaskState;
use crate::ids::{Millis, Offset, TaskId};
use crate::record::{Failure, Reason};
use archives::Archives;
use blobs::Blobs;
use dedup::Dedup;
use families::Families;
use imaging::Imaging;
use kv::Kv;
use leases::Leases;
use lines::Lines;
use methods::Methods;
use names::Names;
use retired::{Leaving, Retired};
use sessions::Sessions;
use slab::NONE;
use std::sync::Arc;
use table::TaskTable;
use task::{FAR, Stage, Task, flag};
use wheel::Wheel;

/// Everything that records tell, indexed.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Time of the latest record or command.
    pub(crate) time: Millis,
    /// Number of the next task.
    pub(crate) next_task: u64,
    pub(crate) tasks: TaskTable,
    pub(crate) methods: Methods,
    pub(crate) leases: Leases,
    pub(crate) names: Names,
    pub(crate) dedup: Dedup,
    pub(crate) families: Families,
    pub(crate) sessions: Sessions,
    pub(crate) kv: Kv,
    pub(crate) blobs: Blobs,
    pub(crate) lines: Lines,
    pub(crate) wheel: Wheel,
    pub(crate) leaving: Leaving,
    pub(crate) archives: Archives,
    /// The snapshot that is being taken.
    pub(crate) imaging: Option<Box<Imaging>>,
    /// Whether the derived indices are kept.
    pub(crate) indexed: bool,
}

impl State {
    pub(crate) fn new(resident_bytes_max: u64, seed: u64) -> Self {
        Self {
            next_task: 1,
            dedup: Dedup::seeded(seed),
            families: Families::seeded(seed),
            lines: Lines::seeded(seed),
            methods: Methods::seeded(seed),
            blobs: Blobs::new(resident_bytes_max),
            ..Self::default()
        }
    }

    /// Builds the derived indices after replay.
    pub(crate) fn index(&mut self, now: Millis) {
        self.time = self.time.max(now.min(FAR));
        self.indexed = true;
        self.blobs.placing = true;
        self.wheel.start(self.time);
        let slots: Vec<u32> = self.tasks.slots().collect();
        for slot in slots {
            if !self.tasks[slot].is_final() {
                self.lines
                    .join(&mut self.tasks, &mut self.methods, slot, self.time);
            }
            self.enter(slot);
            self.settle(slot);
            if crate::mutant::is(crate::mutant::Mutant::LostTimer)
                && self.tasks[slot].state == TaskState::Backoff
            {
                self.wheel.cancel(&mut self.tasks, slot);
            }
        }
        self.index_archives();
        self.look_at_limits();
        for task in self.tasks.retired() {
            self.methods.count(task.method, task.state);
            self.leaving.add(self.retained_until(&task, 0), task.id);
        }
    }

    /// The log took the blobs of all records so far. Tasks that are done and have nothing special to tell are
    /// kept in short form from now on.
    pub(crate) fn place(&mut self, area: Offset) {
        for slot in self.blobs.place(&mut self.tasks, area) {
            self.retire(slot);
        }
    }

    /// Keeps a task in its short form, if it has one.
    pub(super) fn retire(&mut self, slot: u32) {
        let Some(retired) = self.tasks.get(slot).and_then(Retired::of) else {
            return self.settle(slot);
        };
        let until = self.retained_until(&self.tasks[slot], 0);
        let id = self.tasks[slot].id;
        self.wheel.cancel(&mut self.tasks, slot);
        self.tasks.retire(slot, retired);
        if self.indexed {
            self.leaving.add(until, id);
        }
    }

    /// Puts a task into the indices that its state calls for.
    pub(crate) fn enter(&mut self, slot: u32) {
        if !self.indexed {
            return;
        }
        let task = &self.tasks[slot];
        let (method, state) = (task.method, task.state);
        self.methods.count(method, state);
        if task.flag(flag::DEAD_LETTER) {
            self.methods.methods[method as usize].dead_letters += 1;
        }
        if state == TaskState::Ready && self.lines.may_start(&self.tasks, slot) {
            self.methods.push_ready(&mut self.tasks, slot);
        } else if state == TaskState::Running
            && !crate::mutant::is(crate::mutant::Mutant::RunsNotCounted)
        {
            // What begins now is counted already; this is what began before a restart.
            self.methods.count_running(&mut self.tasks, slot, self.time);
        }
        self.arm(slot);
    }

    /// Takes a task out of the indices of its state, its timer and its place in line excepted.
    pub(crate) fn exit(&mut self, slot: u32) {
        if !self.indexed {
            return;
        }
        let task = &self.tasks[slot];
        let (method, state) = (task.method, task.state);
        self.methods.discount(method, state);
        if task.flag(flag::DEAD_LETTER) {
            let entry = &mut self.methods.methods[method as usize];
            entry.dead_letters = entry.dead_letters.saturating_sub(1);
        }
        self.methods.remove_ready(&mut self.tasks, slot, self.time);
        if state == TaskState::Running {
            self.methods
                .uncount_running(&mut self.tasks, slot, self.time);
        }
    }

    /// Sets the timer of a task to the next instant that matters to it.
    pub(crate) fn arm(&mut self, slot: u32) {
        match self.due_at(slot) {
            Some(at) => self.wheel.set(&mut self.tasks, slot, at),
            None => self.wheel.cancel(&mut self.tasks, slot),
        }
    }

    fn due_at(&self, slot: u32) -> Option<Millis> {
        let task = &self.tasks[slot];
        match task.state {
            TaskState::Scheduled | TaskState::Backoff => Some(task.start_at.min(task.expire_at)),
            TaskState::Running => {
                // A lease that waits for its worker after a restart has an end of its own.
                let deadline = self
                    .leases
                    .slab
                    .get(task.lease())
                    .filter(|lease| lease.worker != NONE)
                    .map_or(FAR, |lease| lease.deadline);
                Some(task.expire_at.min(deadline))
            }
            state if state.is_final() => self.kept_until(task),
            _ => Some(task.expire_at),
        }
    }

    /// When a final task is to be forgotten. None: not while its flow is unfinished.
    pub(crate) fn kept_until(&self, task: &Task) -> Option<Millis> {
        let mut until = self.retained_until(task, 0);
        if let Some(parent) = task
            .birth()
            .and_then(|birth| self.tasks.by_id(birth.parent))
        {
            if !parent.is_final() {
                return None;
            }
            until = until.max(self.retained_until(task, parent.ended_at()));
            if parent.state == TaskState::Failed {
                // A flow that may be run again still finds what it has done.
                until = until.max(self.retained_until(parent, 0));
            }
        }
        let key_until = match task.idempotency_key() {
            Some(_) => task.rare.as_ref().map_or(0, |rare| rare.key_until),
            None => 0,
        };
        Some(until.max(key_until).min(FAR))
    }

    pub(crate) fn retained_until(&self, task: &Task, from: Millis) -> Millis {
        let retention = self
            .methods
            .retention_ms(task.method, task.flag(flag::DEAD_LETTER));
        let retention =
            retention >> u32::from(crate::mutant::is(crate::mutant::Mutant::ForgetEarly));
        from.max(task.ended_at()).saturating_add(retention)
    }

    /// A flow ended: from now on its finished children are kept for their retention only.
    pub(crate) fn arm_children(&mut self, parent: u32) {
        if !self.indexed {
            return;
        }
        let mut child = families::first(&self.tasks, parent);
        while child != NONE {
            if self.tasks[child].is_final() {
                self.arm(child);
            }
            child = families::next(&self.tasks, child);
        }
    }

    /// Time has come for a task that waits for a time: it is READY. No record tells this; the clock does.
    pub(crate) fn awaken(&mut self, slot: u32) {
        self.exit(slot);
        self.tasks[slot].state = TaskState::Ready;
        self.enter(slot);
    }

    /// Ends the lease of a task, if it has one, and gives back the key of the worker's name (or NONE): the
    /// caller owns that use of the name.
    pub(crate) fn take_lease(&mut self, slot: u32) -> u32 {
        let Stage::Open { lease, .. } = &mut self.tasks[slot].stage else {
            return NONE;
        };
        let lease = std::mem::replace(lease, NONE);
        self.leases
            .slab
            .remove(lease)
            .map_or(NONE, |lease| lease.name)
    }

    /// The slot of an unfinished task.
    pub(crate) fn open(&self, id: TaskId) -> Option<u32> {
        self.tasks
            .find(id)
            .filter(|slot| !self.tasks[*slot].is_final())
    }

    /// The failure to show for a task: the latest one, or what its final state means.
    pub(crate) fn failure(&self, task: &Task) -> Option<Failure> {
        match task.failure() {
            Some(failure) => Some(failure.clone()),
            None if task.state == TaskState::Expired => {
                Some(expired(task.flag(flag::EXPIRED_RUNNING), None))
            }
            None => None,
        }
    }
}

/// What a task that expired failed with; wraps the failure it had before, if any.
pub(crate) fn expired(while_running: bool, last: Option<&Failure>) -> Failure {
    let (reason, text) = if while_running {
        (
            Reason::ExpiredWhileRunning,
            "the deadline passed while an attempt was running",
        )
    } else {
        (
            Reason::ExpiredBeforeStart,
            "the deadline passed before an attempt could start",
        )
    };
    let message: Arc<str> = match last {
        Some(last) => format!("{text}; the last one failed: {}", last.message).into(),
        None => text.into(),
    };
    Failure {
        reason: Some(reason),
        code: 4,
        message,
        ..Failure::default()
    }
}
