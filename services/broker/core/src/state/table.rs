//! The tasks, found by slot or by number. Numbers are dense, so an index of pages finds a slot in
//! constant time; a page whose tasks are all forgotten is given back.

use super::slab::{NONE, Slab};
use super::task::Task;
use crate::ids::TaskId;
use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

const PAGE_BITS: u32 = 12;
const PAGE: usize = 1 << PAGE_BITS;

/// Pages between the oldest and the newest task at most: 2^36 tasks. A number beyond is not taken.
const PAGES_MAX: u64 = 1 << 24;

#[derive(Debug)]
struct Page {
    slots: Box<[u32]>,
    used: u32,
}

/// All tasks that are known.
#[derive(Debug, Default)]
pub(crate) struct TaskTable {
    slab: Slab<Task>,
    pages: VecDeque<Option<Page>>,
    /// Number of the first page.
    base: u64,
}

impl TaskTable {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Takes a task in. None: its number is taken, or so far from the others that it cannot be right.
    pub(crate) fn insert(&mut self, task: Task) -> Option<u32> {
        let id = task.id.0;
        let number = id >> PAGE_BITS;
        if self.pages.is_empty() {
            self.base = number;
        }
        let end = self.base + self.pages.len() as u64;
        if number >= self.base.saturating_add(PAGES_MAX) || end.saturating_sub(number) > PAGES_MAX {
            return None;
        }
        while number < self.base {
            self.pages.push_front(None);
            self.base -= 1;
        }
        let at = (number - self.base) as usize;
        while self.pages.len() <= at {
            self.pages.push_back(None);
        }
        let page = self.pages[at].get_or_insert_with(|| Page {
            slots: vec![NONE; PAGE].into_boxed_slice(),
            used: 0,
        });
        let cell = &mut page.slots[id as usize & (PAGE - 1)];
        if *cell != NONE {
            return None;
        }
        page.used += 1;
        let slot = self.slab.insert(task);
        *cell = slot;
        Some(slot)
    }

    /// Forgets a task.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Task> {
        let task = self.slab.remove(slot)?;
        let at = ((task.id.0 >> PAGE_BITS) - self.base) as usize;
        if let Some(entry) = self.pages.get_mut(at)
            && let Some(page) = entry
        {
            page.slots[task.id.0 as usize & (PAGE - 1)] = NONE;
            page.used -= 1;
            if page.used == 0 {
                *entry = None;
            }
        }
        while matches!(self.pages.front(), Some(None)) {
            self.pages.pop_front();
            self.base += 1;
        }
        while matches!(self.pages.back(), Some(None)) {
            self.pages.pop_back();
        }
        Some(task)
    }

    /// The slot of a task.
    pub(crate) fn find(&self, id: TaskId) -> Option<u32> {
        let at = (id.0 >> PAGE_BITS).checked_sub(self.base)?;
        let page = self.pages.get(usize::try_from(at).ok()?)?.as_ref()?;
        let slot = page.slots[id.0 as usize & (PAGE - 1)];
        (slot != NONE).then_some(slot)
    }

    /// The task in a slot.
    pub(crate) fn get(&self, slot: u32) -> Option<&Task> {
        self.slab.get(slot)
    }

    /// A task by its number.
    pub(crate) fn by_id(&self, id: TaskId) -> Option<&Task> {
        self.slab.get(self.find(id)?)
    }

    /// The slot of the last task before a number.
    pub(crate) fn before(&self, id: TaskId) -> Option<u32> {
        let last = id.0.checked_sub(1)?;
        let end = (self.pages.len() as u64).checked_sub(1)?;
        let mut at = (last >> PAGE_BITS).checked_sub(self.base)?;
        let mut to = (last as usize & (PAGE - 1)) + 1;
        if at > end {
            (at, to) = (end, PAGE);
        }
        loop {
            if let Some(page) = &self.pages[at as usize] {
                let found = page.slots[..to]
                    .iter()
                    .rev()
                    .copied()
                    .find(|slot| *slot != NONE);
                if found.is_some() {
                    return found;
                }
            }
            at = at.checked_sub(1)?;
            to = PAGE;
        }
    }

    /// Slots of all tasks by ascending number.
    pub(crate) fn ascending(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages
            .iter()
            .flatten()
            .flat_map(|page| page.slots.iter().copied().filter(|slot| *slot != NONE))
    }
}

impl Index<u32> for TaskTable {
    type Output = Task;

    fn index(&self, slot: u32) -> &Task {
        &self.slab[slot]
    }
}

impl IndexMut<u32> for TaskTable {
    fn index_mut(&mut self, slot: u32) -> &mut Task {
        &mut self.slab[slot]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::task::{Link, Stage, Timer, UNPLACED};
    use super::*;
    use crate::effect::TaskState;
    use crate::ids::Token;

    pub(crate) fn sample(id: u64) -> Task {
        Task {
            id: TaskId(id),
            created_at: 0,
            start_at: 0,
            expire_at: 0,
            timer: Timer::UNSET,
            request_at: UNPLACED,
            stage: Stage::Open {
                token: Token(0),
                lease: NONE,
                link: Link::FREE,
            },
            rare: None,
            request_len: 0,
            envelope_len: 0,
            method: 0,
            resident: NONE,
            waiter: NONE,
            started_after: NONE,
            attempt: 0,
            state: TaskState::Ready,
            priority: 4,
            flags: 0,
        }
    }

    #[test]
    fn tasks_are_found_by_number_over_pages() {
        let mut table = TaskTable::default();
        let slots: Vec<u32> = (1..10_000)
            .map(|id| table.insert(sample(id)).expect("new"))
            .collect();
        assert_eq!(table.insert(sample(5)), None, "a number is taken once");
        assert_eq!(table.find(TaskId(9_000)), Some(slots[8_999]));
        for slot in &slots[..9_000] {
            table.remove(*slot);
        }
        assert_eq!(table.find(TaskId(9_000)), None);
        assert_eq!(table.pages.len(), 1, "empty pages are given back");
        assert_eq!(table.before(TaskId(u64::MAX)), table.find(TaskId(9_999)));
        assert_eq!(table.before(TaskId(9_001)), None);
        assert_eq!(table.ascending().count(), 999);
        assert_eq!(
            table.insert(sample(u64::MAX)),
            None,
            "absurd numbers take no memory"
        );
        assert!(
            table.insert(sample(3)).is_some(),
            "an older number is taken in, too"
        );
    }
}
