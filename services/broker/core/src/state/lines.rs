//! Ordering lines: of the unfinished tasks of a queue with one ordering key, only the head may start.
//!
//! A task takes its place when it is accepted, delayed or not, and keeps it over backoff and suspension
//! until it is final. Places go by number, so a task that is run again stands where it stood; only one that
//! has attempts behind it keeps the head against a smaller number.

use super::list::List;
use super::methods::Methods;
use super::slab::{NONE, Slab};
use super::slots::SlotTable;
use super::table::TaskTable;
use super::task::flag;
use crate::effect::TaskState;
use crate::ids::Millis;
use std::sync::Arc;

#[derive(Debug)]
struct Line {
    queue: u32,
    key: Arc<str>,
    head: u32,
    /// Those behind the head.
    waiters: List,
}

/// All lines with an unfinished task.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Slab<Line>,
    by_key: SlotTable,
}

impl Lines {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            by_key: SlotTable::seeded(seed),
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lines.len() + self.by_key.len()
    }

    /// Gives an unfinished task its place, if it has an ordering key and none yet.
    pub(crate) fn join(
        &mut self,
        tasks: &mut TaskTable,
        methods: &mut Methods,
        slot: u32,
        now: Millis,
    ) {
        let task = &tasks[slot];
        if task.line() != NONE {
            return;
        }
        let Some(key) = task.ordering_key().map(Arc::clone) else {
            return;
        };
        let (id, started) = (task.id, task.attempt > 0);
        let line = self.line(methods.get(task.method).queue, key);
        tasks[slot].rare_mut().line = line;
        let line = &mut self.lines[line];
        let head = line.head;
        if head == NONE {
            line.head = slot;
            return;
        }
        let unsorted = crate::mutant::is(crate::mutant::Mutant::OrderAtRecovery);
        let displaced = !unsorted && tasks[head].attempt == 0 && (started || id < tasks[head].id);
        let waiting = if displaced {
            methods.remove_ready(tasks, head, now);
            line.head = slot;
            head
        } else {
            slot
        };
        tasks[waiting].set_flag(flag::IN_LINE, true);
        let id = tasks[waiting].id;
        let mut next = line.waiters.first;
        if unsorted || (line.waiters.last != NONE && tasks[line.waiters.last].id < id) {
            next = NONE;
        }
        while next != NONE && tasks[next].id < id {
            next = tasks[next].link().next;
        }
        line.waiters.insert_before(tasks, waiting, next);
    }

    fn line(&mut self, queue: u32, key: Arc<str>) -> u32 {
        let hash = self.by_key.hash((queue, &*key));
        let lines = &mut self.lines;
        let is = |line: u32| lines[line].queue == queue && lines[line].key == key;
        if let Some(line) = self.by_key.find(hash, is) {
            return line;
        }
        let line = lines.insert(Line {
            queue,
            key,
            head: NONE,
            waiters: List::default(),
        });
        self.by_key.put(hash, line, |_| false);
        line
    }

    /// Takes a task that is over out of its line; the next one may start. To be called before the task is final.
    pub(crate) fn leave(&mut self, tasks: &mut TaskTable, methods: &mut Methods, slot: u32) {
        let number = tasks[slot].line();
        if number == NONE {
            return;
        }
        tasks[slot].rare_mut().line = NONE;
        let line = &mut self.lines[number];
        if line.head != slot {
            tasks[slot].set_flag(flag::IN_LINE, false);
            line.waiters.remove(tasks, slot);
            return;
        }
        line.head = line.waiters.pop_front(tasks).unwrap_or(NONE);
        let head = line.head;
        if head == NONE {
            self.forget(number);
            return;
        }
        tasks[head].set_flag(flag::IN_LINE, false);
        if tasks[head].state == TaskState::Ready {
            methods.push_ready(tasks, head);
        }
    }

    fn forget(&mut self, number: u32) {
        let Some(line) = self.lines.remove(number) else {
            return;
        };
        let hash = self.by_key.hash((line.queue, &*line.key));
        self.by_key.remove(hash, number);
    }

    /// Whether the task need not wait for another one of its line.
    pub(crate) fn may_start(&self, tasks: &TaskTable, slot: u32) -> bool {
        let line = tasks[slot].line();
        line == NONE || self.lines[line].head == slot
    }
}
