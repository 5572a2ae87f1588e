//! Idempotency keys: the task that a key of a method stands for. A task is kept under its route, and looked for under
//! all routes of its method.
//!
//! A key is remembered for as long as its task is, and the task is kept until its retention and the key's window are
//! both over. So a key never outlives its task as a lock, and never answers with a task that is gone. Keys of tasks
//! that were archived are kept [apart](super::archived_keys).

use super::State;
use super::slots::{KeyHash, SlotTable};
use super::table::TaskTable;
use super::task::Task;
use crate::ids::{Millis, TaskId};

/// Tasks by (route, idempotency key).
#[derive(Debug, Default)]
pub(crate) struct Dedup {
    slots: SlotTable,
}

/// The task that a key stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum First {
    /// In a slot.
    Kept(u32),
    /// In an archive file; with the lower half of its request's digest.
    Archived(TaskId, u64),
}

impl State {
    /// The task that the key stands for now, wherever it is: a key is the method's, by whatever route its task goes.
    pub(crate) fn first_of(&self, method: u32, key: &str, now: Millis) -> Option<First> {
        let routes = self.methods.routes(method).iter();
        let mut found = routes.filter_map(|route| self.first_by(*route, key, now));
        found.next()
    }

    fn first_by(&self, route: u32, key: &str, now: Millis) -> Option<First> {
        let hash = self.dedup.hash(route, key);
        if let Some(slot) = self.dedup.find(&self.tasks, route, key, hash, now) {
            return Some(First::Kept(slot));
        }
        let path = &self.methods.policy(route).method;
        let (task, digest) = self.archives.keys.find(path, key, now)?;
        Some(First::Archived(task, digest))
    }
}

fn is(task: &Task, method: u32, key: &str) -> bool {
    task.method == method && task.idempotency_key().is_some_and(|own| **own == *key)
}

impl Dedup {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            slots: SlotTable::seeded(seed),
        }
    }

    /// The hash under which a key is kept.
    pub(crate) fn hash(&self, method: u32, key: &str) -> KeyHash {
        self.slots.hash((method, key))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The task that the key stands for now.
    pub(crate) fn find(
        &self,
        tasks: &TaskTable,
        method: u32,
        key: &str,
        hash: KeyHash,
        now: Millis,
    ) -> Option<u32> {
        let slot = self
            .slots
            .find(hash, |slot| is(&tasks[slot], method, key))?;
        let task = &tasks[slot];
        let until = task.rare.as_ref().map_or(0, |rare| rare.key_until);
        let now = now + u64::from(crate::mutant::is(crate::mutant::Mutant::DedupWindow));
        (!task.is_final() || now < until).then_some(slot)
    }

    /// Lets the task's key, if it has one, stand for it.
    pub(crate) fn insert(&mut self, tasks: &TaskTable, slot: u32) {
        let task = &tasks[slot];
        if let Some(key) = task.idempotency_key() {
            let is = |other: u32| is(&tasks[other], task.method, key);
            self.slots.put(self.hash(task.method, key), slot, is);
        }
    }

    /// Whether the task's key stands for it, and not for a newer one.
    pub(crate) fn stands_for(&self, tasks: &TaskTable, slot: u32) -> bool {
        let task = &tasks[slot];
        task.idempotency_key().is_some_and(|key| {
            let hash = self.hash(task.method, key);
            let is = |other: u32| is(&tasks[other], task.method, key);
            self.slots.find(hash, is) == Some(slot)
        })
    }

    /// The task is about to be forgotten.
    pub(crate) fn remove(&mut self, tasks: &TaskTable, slot: u32) {
        let task = &tasks[slot];
        if let Some(key) = task.idempotency_key() {
            self.slots.remove(self.hash(task.method, key), slot);
        }
    }
}
