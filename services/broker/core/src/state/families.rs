//! Flows and their children: every child is found by its parent and its key, and every parent knows its children.

use super::slab::NONE;
use super::slots::SlotTable;
use super::table::TaskTable;
use super::task::{Family, Link, Task};
use crate::effect::TaskState;
use crate::ids::TaskId;
use crate::record::ChildKey;
use std::sync::Arc;

/// Children by (parent, key).
#[derive(Debug, Default)]
pub(crate) struct Families {
    slots: SlotTable,
}

fn is(task: &Task, parent: TaskId, key: &ChildKey) -> bool {
    task.birth()
        .is_some_and(|birth| birth.parent == parent && birth.key == *key)
}

impl Families {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            slots: SlotTable::seeded(seed),
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The child that the key stands for.
    pub(crate) fn find(&self, tasks: &TaskTable, parent: TaskId, key: &ChildKey) -> Option<u32> {
        self.slots.find(self.slots.hash((parent, key)), |slot| {
            is(&tasks[slot], parent, key)
        })
    }

    /// Takes a task that has a parent into its family.
    pub(crate) fn adopt(&mut self, tasks: &mut TaskTable, slot: u32) {
        let Some(birth) = tasks[slot].birth() else {
            return;
        };
        let hash = self.slots.hash((birth.parent, &birth.key));
        let open = !tasks[slot].is_final();
        let parent = tasks.find(birth.parent);
        self.slots.put(hash, slot, |other| {
            is(&tasks[other], birth.parent, &birth.key)
        });
        let Some(parent) = parent else { return };
        let none = Family {
            first: NONE,
            count: 0,
            unfinished: 0,
            readers: 0,
        };
        let reads = birth.flags.is_some();
        let family = tasks[parent].more_mut().family.get_or_insert(none);
        let next = std::mem::replace(&mut family.first, slot);
        family.readers += u64::from(reads);
        family.count += 1;
        family.unfinished += u64::from(open);
        set(tasks, slot, |link| *link = Link { prev: NONE, next });
        if next != NONE {
            set(tasks, next, |link| link.prev = slot);
            share_flags(tasks, slot, next);
        }
    }

    /// Takes a child out of its family: the parent will not find it again.
    pub(crate) fn expel(&mut self, tasks: &mut TaskTable, slot: u32) {
        let Some(birth) = tasks[slot].birth() else {
            return;
        };
        let Link { prev, next } = birth.sibling;
        let parent = tasks.find(birth.parent);
        let open = !tasks[slot].is_final();
        let reads = birth.flags.is_some();
        let hash = self.slots.hash((birth.parent, &birth.key));
        self.slots.remove(hash, slot);
        if prev != NONE {
            set(tasks, prev, |link| link.next = next);
        }
        if next != NONE {
            set(tasks, next, |link| link.prev = prev);
        }
        let Some(parent) = parent else { return };
        let Some(family) = tasks[parent].more_mut().family.as_mut() else {
            return;
        };
        if prev == NONE {
            family.first = next;
        }
        family.count = family.count.saturating_sub(1);
        family.unfinished = family.unfinished.saturating_sub(u64::from(open));
        family.readers = family.readers.saturating_sub(u64::from(reads));
    }

    /// A child became final, or is run again.
    pub(crate) fn moved(&mut self, tasks: &mut TaskTable, slot: u32, open: bool) {
        let Some(birth) = tasks[slot].birth() else {
            return;
        };
        let Some(parent) = tasks.find(birth.parent) else {
            return;
        };
        if let Some(family) = tasks[parent].more_mut().family.as_mut() {
            family.unfinished = if open {
                family.unfinished + 1
            } else {
                family.unfinished.saturating_sub(1)
            };
        }
    }

    /// A flow starts anew: its children that ended without success are no longer its own, so that they are
    /// asked for again.
    pub(crate) fn forget_failures(&mut self, tasks: &mut TaskTable, parent: u32) {
        let mut child = first(tasks, parent);
        while child != NONE {
            let next = next(tasks, child);
            let state = tasks[child].state;
            if state.is_final() && state != TaskState::Succeeded {
                self.expel(tasks, child);
                tasks[child].disown();
            }
            child = next;
        }
    }
}

/// Whether a child's flow ended in a way that it never comes back from.
pub(crate) fn is_orphan(tasks: &TaskTable, child: u32) -> bool {
    let parent = tasks[child]
        .birth()
        .and_then(|birth| tasks.by_id(birth.parent));
    parent.is_some_and(|flow| matches!(flow.state, TaskState::Cancelled | TaskState::Expired))
}

/// The first child of a task, or NONE.
pub(crate) fn first(tasks: &TaskTable, parent: u32) -> u32 {
    tasks[parent].family().map_or(NONE, |family| family.first)
}

/// Feature flags as the runs of a flow had read them when they asked for its children, each reading once.
pub(crate) fn flags(tasks: &TaskTable, parent: u32) -> Vec<Arc<[u8]>> {
    let mut found: Vec<Arc<[u8]>> = Vec::new();
    let mut left = tasks[parent].family().map_or(0, |family| family.readers);
    let mut child = first(tasks, parent);
    while left > 0 && child != NONE {
        if let Some(flags) = tasks[child].birth().and_then(|birth| birth.flags.as_ref()) {
            left -= 1;
            // Siblings share what is equal, and a run's later readings begin with its earlier ones.
            let known = |other: &Arc<[u8]>| Arc::ptr_eq(other, flags) || other == flags;
            if !found.iter().any(known) {
                found.push(Arc::clone(flags));
            }
        }
        child = next(tasks, child);
    }
    found
}

fn share_flags(tasks: &mut TaskTable, slot: u32, sibling: u32) {
    let flags = |slot: u32| tasks[slot].birth().and_then(|birth| birth.flags.as_ref());
    let (Some(own), Some(known)) = (flags(slot), flags(sibling)) else {
        return;
    };
    if own == known {
        let known = Arc::clone(known);
        if let Some(birth) = tasks[slot].birth_mut() {
            birth.flags = Some(known);
        }
    }
}

/// The next sibling of a child, or NONE.
pub(crate) fn next(tasks: &TaskTable, child: u32) -> u32 {
    tasks[child]
        .birth()
        .map_or(NONE, |birth| birth.sibling.next)
}

fn set(tasks: &mut TaskTable, slot: u32, change: impl FnOnce(&mut Link)) {
    if let Some(birth) = tasks[slot].birth_mut() {
        change(&mut birth.sibling);
    }
}
