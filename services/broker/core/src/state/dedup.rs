//! Idempotency keys: the task that a key of a method stands for.
//!
//! A key is remembered for as long as its task is, and the task is kept until its retention and the key's window are
//! both over. So a key never outlives its task as a lock, and never answers with a task that is gone.

use super::table::TaskTable;
use super::task::Task;
use crate::ids::Millis;
use hashbrown::HashTable;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Tasks by (method, idempotency key).
#[derive(Debug, Default)]
pub(crate) struct Dedup {
    slots: HashTable<u32>,
}

/// The hash under which a key is kept.
pub(crate) fn hash(method: u32, key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (method, key).hash(&mut hasher);
    hasher.finish()
}

fn is(task: &Task, method: u32, key: &str) -> bool {
    task.method == method && task.idempotency_key().is_some_and(|own| **own == *key)
}

impl Dedup {
    /// The task that the key stands for now.
    pub(crate) fn find(
        &self,
        tasks: &TaskTable,
        method: u32,
        key: &str,
        hash: u64,
        now: Millis,
    ) -> Option<u32> {
        let slot = *self
            .slots
            .find(hash, |slot| is(&tasks[*slot], method, key))?;
        let task = &tasks[slot];
        let until = task.rare.as_ref().map_or(0, |rare| rare.key_until);
        (!task.is_final() || now < until).then_some(slot)
    }

    /// Lets the task's key, if it has one, stand for it.
    pub(crate) fn insert(&mut self, tasks: &TaskTable, slot: u32) {
        let task = &tasks[slot];
        let Some(key) = task.idempotency_key() else {
            return;
        };
        let hash = hash(task.method, key);
        match self
            .slots
            .find_mut(hash, |other| is(&tasks[*other], task.method, key))
        {
            Some(entry) => *entry = slot,
            None => {
                self.slots
                    .insert_unique(hash, slot, |slot| rehash(&tasks[*slot]));
            }
        }
    }

    /// The task is about to be forgotten.
    pub(crate) fn remove(&mut self, tasks: &TaskTable, slot: u32) {
        let task = &tasks[slot];
        let Some(key) = task.idempotency_key() else {
            return;
        };
        if let Ok(entry) = self
            .slots
            .find_entry(hash(task.method, key), |other| *other == slot)
        {
            entry.remove();
        }
    }
}

fn rehash(task: &Task) -> u64 {
    task.idempotency_key()
        .map_or(0, |key| hash(task.method, key))
}
