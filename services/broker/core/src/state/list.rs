//! Doubly linked lists through the tasks themselves: ready lists and waiters of ordering lines.

use super::slab::NONE;
use super::table::TaskTable;
use super::task::Link;

/// Ends of a list. A task is in one list at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
        }
    }
}

impl List {
    pub(crate) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// Puts a task at the end.
    pub(crate) fn push_back(&mut self, tasks: &mut TaskTable, slot: u32) {
        let prev = self.last;
        set(tasks, slot, Link { prev, next: NONE });
        if prev == NONE {
            self.first = slot;
        } else {
            set(
                tasks,
                prev,
                Link {
                    next: slot,
                    ..tasks[prev].link()
                },
            );
        }
        self.last = slot;
    }

    /// Puts a task before another one of the list; at the end if that is NONE.
    pub(crate) fn insert_before(&mut self, tasks: &mut TaskTable, slot: u32, next: u32) {
        if next == NONE {
            return self.push_back(tasks, slot);
        }
        let prev = tasks[next].link().prev;
        set(tasks, slot, Link { prev, next });
        set(
            tasks,
            next,
            Link {
                prev: slot,
                ..tasks[next].link()
            },
        );
        if prev == NONE {
            self.first = slot;
        } else {
            set(
                tasks,
                prev,
                Link {
                    next: slot,
                    ..tasks[prev].link()
                },
            );
        }
    }

    /// Takes a task of the list out of it.
    pub(crate) fn remove(&mut self, tasks: &mut TaskTable, slot: u32) {
        let Link { prev, next } = tasks[slot].link();
        if prev == NONE {
            debug_assert_eq!(
                self.first, slot,
                "a list starts with a task that has none before it"
            );
            self.first = next;
        } else {
            set(
                tasks,
                prev,
                Link {
                    next,
                    ..tasks[prev].link()
                },
            );
        }
        if next == NONE {
            self.last = prev;
        } else {
            set(
                tasks,
                next,
                Link {
                    prev,
                    ..tasks[next].link()
                },
            );
        }
        set(tasks, slot, Link::FREE);
    }

    /// Takes the first task out.
    pub(crate) fn pop_front(&mut self, tasks: &mut TaskTable) -> Option<u32> {
        let slot = self.first;
        if slot == NONE {
            return None;
        }
        self.remove(tasks, slot);
        Some(slot)
    }
}

fn set(tasks: &mut TaskTable, slot: u32, link: Link) {
    match tasks[slot].link_mut() {
        Some(place) => *place = link,
        None => debug_assert!(link == Link::FREE, "a final task stands in no list"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;

    #[test]
    fn tasks_leave_from_the_front_the_middle_and_the_end() {
        let mut tasks = TaskTable::default();
        let slots: Vec<u32> = (1..=5).filter_map(|id| tasks.insert(sample(id))).collect();
        let mut list = List::default();
        for slot in [slots[0], slots[1], slots[3]] {
            list.push_back(&mut tasks, slot);
        }
        list.insert_before(&mut tasks, slots[2], slots[3]);
        list.insert_before(&mut tasks, slots[4], slots[0]);
        list.remove(&mut tasks, slots[1]);
        list.remove(&mut tasks, slots[3]);
        let order: Vec<u32> = std::iter::from_fn(|| list.pop_front(&mut tasks)).collect();
        assert_eq!(order, [slots[4], slots[0], slots[2]]);
        assert!(list.is_empty());
    }
}
