//! The tasks, found by slot or by number. Those that are [retired](super::retired) have no slot.

use super::pages::Pages;
use super::retired::Retired;
use super::slab::Slab;
use super::task::Task;
use crate::ids::TaskId;
use std::ops::{Index, IndexMut};

/// Marks cells of retired tasks.
const RETIRED: u32 = 1 << 31;

/// A task wherever it is.
#[derive(Debug)]
pub(crate) enum Found {
    /// In a slot.
    Slot(u32),
    /// Retired; this is its long form.
    Retired(Box<Task>),
}

/// All tasks that are known.
#[derive(Debug, Default)]
pub(crate) struct TaskTable {
    slab: Slab<Task>,
    retired: Slab<Retired>,
    pages: Pages,
}

impl TaskTable {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slab.len() + self.retired.len()
    }

    /// Takes a task in. None: its number is taken, or so far from the others that it cannot be right.
    pub(crate) fn insert(&mut self, task: Task) -> Option<u32> {
        let cell = self.pages.claim(task.id)?;
        let slot = self.slab.insert(task);
        debug_assert!(slot < RETIRED, "2^31 tasks fit no memory");
        *cell = slot;
        Some(slot)
    }

    /// Forgets a task.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Task> {
        let task = self.slab.remove(slot)?;
        self.pages.remove(task.id);
        Some(task)
    }

    /// Keeps a task in its short form from now on.
    pub(crate) fn retire(&mut self, slot: u32, retired: Retired) {
        if let Some(task) = self.slab.remove(slot)
            && let Some(cell) = self.pages.get_mut(task.id)
        {
            *cell = RETIRED | self.retired.insert(retired);
        }
    }

    /// Forgets a retired task.
    pub(crate) fn remove_retired(&mut self, id: TaskId) -> Option<Task> {
        let cell = self.pages.get(id).filter(|cell| cell & RETIRED != 0)?;
        let task = self.retired.remove(cell & !RETIRED)?.task();
        self.pages.remove(id);
        Some(task)
    }

    /// The slot of a task, unless it is retired.
    pub(crate) fn find(&self, id: TaskId) -> Option<u32> {
        self.pages.get(id).filter(|cell| cell & RETIRED == 0)
    }

    /// A task wherever it is.
    pub(crate) fn seek(&self, id: TaskId) -> Option<Found> {
        self.found(self.pages.get(id)?)
    }

    fn found(&self, cell: u32) -> Option<Found> {
        if cell & RETIRED == 0 {
            return Some(Found::Slot(cell));
        }
        let retired = self.retired.get(cell & !RETIRED)?;
        Some(Found::Retired(Box::new(retired.task())))
    }

    /// The task in a slot.
    pub(crate) fn get(&self, slot: u32) -> Option<&Task> {
        self.slab.get(slot)
    }

    /// A task by its number, unless it is retired.
    pub(crate) fn by_id(&self, id: TaskId) -> Option<&Task> {
        self.slab.get(self.find(id)?)
    }

    /// The last task before a number.
    pub(crate) fn before(&self, id: TaskId) -> Option<(TaskId, Found)> {
        let (id, cell) = self.pages.before(id)?;
        Some((id, self.found(cell)?))
    }

    /// Slots by ascending number, retired tasks left out.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages.ascending().filter(|cell| cell & RETIRED == 0)
    }

    /// Retired tasks in their long form, by ascending number.
    pub(crate) fn retired(&self) -> impl Iterator<Item = Task> + '_ {
        let keys = self.pages.ascending().filter(|cell| cell & RETIRED != 0);
        keys.filter_map(|cell| Some(self.retired.get(cell & !RETIRED)?.task()))
    }

    /// All tasks by ascending number, from one on.
    pub(crate) fn ascending_from(&self, id: TaskId) -> impl Iterator<Item = (TaskId, Found)> + '_ {
        let cells = self.pages.ascending_from(id);
        cells.filter_map(|(id, cell)| Some((id, self.found(cell)?)))
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
    use super::super::slab::NONE;
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
            second: false,
        }
    }

    fn before(table: &TaskTable, id: u64) -> Option<u64> {
        table.before(TaskId(id)).map(|(id, _)| id.0)
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
        assert_eq!(before(&table, u64::MAX), Some(9_999));
        assert_eq!(before(&table, 9_001), None);
        assert_eq!(table.slots().count(), 999);
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

    #[test]
    fn a_retired_task_is_found_by_number_only() {
        let mut table = TaskTable::default();
        let open = table.insert(sample(1)).expect("new");
        assert!(Retired::of(&table[open]).is_none(), "it is not done");
        let stage = Stage::Done {
            ended_at: 0,
            response_at: 0,
            response_len: 0,
            worker: NONE,
        };
        let state = TaskState::Succeeded;
        let done = Task {
            stage,
            state,
            attempt: 1,
            started_after: 0,
            ..sample(2)
        };
        let slot = table.insert(done).expect("new");
        let retired = Retired::of(&table[slot]).expect("a plain task");
        table.retire(slot, retired);
        assert_eq!((table.find(TaskId(2)), table.len()), (None, 2));
        assert!(matches!(table.seek(TaskId(2)), Some(Found::Retired(task)) if task.id.0 == 2));
        assert_eq!(before(&table, 9), Some(2));
        assert_eq!((table.slots().count(), table.retired().count()), (1, 1));
        assert!(table.remove_retired(TaskId(1)).is_none());
        assert!(table.remove_retired(TaskId(2)).is_some());
        assert_eq!((table.len(), before(&table, 9)), (1, Some(1)));
    }
}
