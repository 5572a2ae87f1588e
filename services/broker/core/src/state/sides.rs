//! The two sides of a method whose service is split between versions: a second ready list for the tasks of one of them.
//!
//! The second list is a method of its own to whoever dispatches, with nothing but ready lists in it: tasks, counts and
//! policy stay with the route. A route that is not split has none, and nothing is different for it.

use super::lanes::Lists;
use super::list::List;
use super::methods::{Method, Methods, PRIORITY_MAX};
use super::slab::NONE;
use super::table::TaskTable;
use super::task::Task;
use crate::ids::{Millis, TaskId};
use crate::split::{Cut, Sticky};

/// How far a child's root is looked for. A flow deeper than that is taken from there on.
const DEPTH_MAX: usize = 32;

impl Cut {
    /// Whether a task is of the version that has the share.
    pub(super) fn has(self, tasks: &TaskTable, slot: u32) -> bool {
        let task = &tasks[slot];
        let key = match self.sticky {
            Sticky::Task => None,
            Sticky::OrderingKey => task.ordering_key(),
            Sticky::IdempotencyKey => task.idempotency_key(),
            Sticky::LimitKey => task.rare.as_ref().and_then(|rare| rare.limit_key.as_ref()),
        };
        match key {
            Some(key) => self.takes(key.as_bytes()),
            None => self.takes(&root(tasks, task).0.to_le_bytes()),
        }
    }
}

/// The flow that a task is part of in the end, or the task itself.
fn root(tasks: &TaskTable, task: &Task) -> TaskId {
    let mut id = task.id;
    let mut next = task.birth();
    for _ in 0..DEPTH_MAX {
        let Some(birth) = next else {
            break;
        };
        id = birth.parent;
        next = tasks.by_id(id).and_then(Task::birth);
    }
    id
}

impl Methods {
    /// The second list of a route, made if missing.
    pub(crate) fn second(&mut self, route: u32) -> u32 {
        let method = self.get(route);
        if method.second == NONE {
            let number = self.add(route);
            self.methods[route as usize].second = number;
        }
        self.get(route).second
    }

    /// The route whose tasks stand in a list.
    pub(crate) fn route_of(&self, list: u32) -> u32 {
        self.get(list).route
    }

    /// Divides the tasks of a route from now on, or not any more. Those that wait are looked at by [`Methods::sort`],
    /// and none of them is handed out before.
    pub(crate) fn divide(&mut self, route: u32, cut: Option<Cut>) {
        let second = self.get(route).second;
        if self.get(route).cut == cut || (second == NONE && cut.is_none()) {
            return;
        }
        let second = self.second(route);
        self.methods[route as usize].cut = cut;
        for list in [route, second] {
            let method = &mut self.methods[list as usize];
            method.unsorted = method.ready;
        }
        self.unsorted.insert(route);
    }

    /// Looks at up to so many READY tasks of routes whose cut has changed, and moves those that are on the wrong side.
    pub(crate) fn sort(&mut self, tasks: &mut TaskTable, most: usize, now: Millis) {
        let mut left = most;
        while left > 0
            && let Some(route) = self.unsorted.first().copied()
        {
            let lists = [route, self.get(route).second];
            for list in lists {
                // Half of it, so that workers of both sides have something to begin with.
                left -= self.sort_list(tasks, list, left.div_ceil(2), now);
            }
            let is_sorted = |list: u32| self.get(list).unsorted.iter().all(List::is_empty);
            if lists.into_iter().all(is_sorted) {
                self.unsorted.remove(&route);
                // Also what was behind tasks that left before they were looked at.
                lists.into_iter().for_each(|list| self.wake_method(list));
            }
        }
    }

    /// How many of a list were looked at.
    fn sort_list(&mut self, tasks: &mut TaskTable, list: u32, most: usize, now: Millis) -> usize {
        let cut = self.get(self.route_of(list)).cut;
        let mut looked = 0;
        for priority in (0..=PRIORITY_MAX).rev() {
            let before = looked;
            while looked < most {
                let slot = self.get(list).unsorted[usize::from(priority)].first;
                if slot == NONE {
                    break;
                }
                looked += 1;
                if cut.is_some_and(|cut| cut.has(tasks, slot)) == tasks[slot].second {
                    self.methods[list as usize].pass(&tasks[slot], slot);
                } else if self.get(list).turns.is_some() {
                    self.stand_again(tasks, slot, now);
                } else {
                    let (mut lists, _) = self.lists(tasks);
                    lists.remove(slot, false);
                    lists.push(slot);
                }
            }
            if looked > before {
                self.woken.push((list, priority));
            }
        }
        looked
    }
}

impl Method {
    /// A task of one of its ready lists needs not be looked at, for it was, or leaves.
    fn pass(&mut self, task: &Task, slot: u32) {
        let unsorted = &mut self.unsorted[usize::from(task.priority.min(PRIORITY_MAX))];
        let (is_first, is_last) = (unsorted.first == slot, unsorted.last == slot);
        if is_first && is_last {
            *unsorted = List::default();
        } else if is_first {
            unsorted.first = task.link().next;
        } else if is_last {
            unsorted.last = task.link().prev;
        }
    }
}

impl Lists<'_> {
    /// The list that a task that is about to be READY belongs into.
    pub(super) fn choose(&mut self, slot: u32) -> u32 {
        let route = self.tasks[slot].method;
        let method = &self.methods[route as usize];
        let (cut, second) = (method.cut, method.second);
        if !cut.is_some_and(|cut| cut.has(self.tasks, slot)) {
            return route;
        }
        self.tasks[slot].second = true;
        // Who waits is counted where it stands, so that the dispatcher sees what each list has.
        self.methods[route as usize].ready_count -= 1;
        self.methods[second as usize].ready_count += 1;
        second
    }

    /// The list that it stands in and is about to leave; it is counted with its route again.
    pub(super) fn leave(&mut self, slot: u32) -> u32 {
        let task = &mut self.tasks[slot];
        let route = task.method;
        if !std::mem::take(&mut task.second) {
            self.methods[route as usize].pass(task, slot);
            return route;
        }
        let second = self.methods[route as usize].second;
        self.methods[second as usize].pass(task, slot);
        self.methods[route as usize].ready_count += 1;
        self.methods[second as usize].ready_count -= 1;
        second
    }
}
