//! What is READY under limits: which tasks stand in the ready lists, and which wait for their key.
//!
//! Nothing in a ready list is held by its key, so a dispatch never looks past what it may start. A method with a limit
//! of its own that is reached is barred as a whole. What is done here for a task costs the same however many are held.

use super::limits::{Key, Lane, Limiters};
use super::list::List;
use super::methods::{Method, Methods, PRIORITY_MAX};
use super::slab::NONE;
use super::table::TaskTable;
use super::task::flag;
use crate::effect::HeldBy;
use crate::ids::Millis;
use crate::policy::Limits;
use crate::rate::Arrival;

/// Ready lists of methods, apart from their limits.
pub(super) struct Lists<'a> {
    pub(super) methods: &'a mut [Method],
    woken: &'a mut Vec<(u32, u8)>,
    pub(super) tasks: &'a mut TaskTable,
}

impl Lists<'_> {
    /// Puts a task at the end of its ready list.
    pub(super) fn push(&mut self, slot: u32) {
        let place = self.take_place(slot);
        self.put(slot, place, NONE);
    }

    /// Puts the first task of a key into its ready list: at the end, or by its key's weight. How many uses of the key
    /// that is.
    pub(super) fn stand(&mut self, slot: u32, weight: u16) -> u64 {
        let place = self.take_place(slot);
        let Some(turns) = &mut self.methods[place.0 as usize].turns else {
            self.put(slot, place, NONE);
            return 0;
        };
        let key = key_of(self.tasks, slot);
        let turns = &mut turns[usize::from(place.1)];
        let (next, is_new) = turns.come(key, u32::from(weight), slot);
        self.put(slot, place, next);
        u64::from(is_new)
    }

    /// The list and the priority where a task is about to stand.
    fn take_place(&mut self, slot: u32) -> (u32, u8) {
        let number = self.choose(slot);
        let task = &mut self.tasks[slot];
        task.set_flag(flag::IN_READY, true);
        (number, task.priority.min(PRIORITY_MAX))
    }

    /// Puts a task before another one of a ready list; at the end if that is NONE.
    fn put(&mut self, slot: u32, (number, priority): (u32, u8), next: u32) {
        let list = &mut self.methods[number as usize].ready[usize::from(priority)];
        if list.is_empty() {
            self.woken.push((number, priority));
        }
        list.insert_before(self.tasks, slot, next);
    }

    /// Takes a task out of its ready list; `began`: it is its key's turn.
    pub(super) fn remove(&mut self, slot: u32, began: bool) {
        let number = self.leave(slot);
        let task = &mut self.tasks[slot];
        task.set_flag(flag::IN_READY, false);
        let priority = usize::from(task.priority.min(PRIORITY_MAX));
        let method = &mut self.methods[number as usize];
        method.ready[priority].remove(self.tasks, slot);
        if let Some(turns) = &mut method.turns {
            turns[priority].go(key_of(self.tasks, slot), began);
        }
    }

    /// Puts a task into a lane, at its end, or before all others if it stood in the ready list.
    fn enter(&mut self, lane: &mut Lane, slot: u32, again: bool) {
        self.tasks[slot].set_flag(flag::IN_LANE, true);
        let next = if again { lane.rest.first } else { NONE };
        lane.rest.insert_before(self.tasks, slot, next);
        lane.waiting += 1;
        self.methods[lane.route as usize].waiting.add(slot, again);
    }

    /// Takes a task out of a lane.
    fn exit(&mut self, lane: &mut Lane, slot: u32) {
        self.tasks[slot].set_flag(flag::IN_LANE, false);
        lane.rest.remove(self.tasks, slot);
        lane.waiting -= 1;
        let tasks = &self.tasks;
        let waits = |slot| {
            let task = tasks.get(slot);
            task.is_some_and(|task| task.flag(flag::IN_LANE) && task.method == lane.route)
        };
        self.methods[lane.route as usize].waiting.remove(waits);
    }

    /// Puts the first of a lane into the ready list, if none of it stands there. How many uses of the key that is.
    fn fill(&mut self, lane: &mut Lane, weight: u16) -> u64 {
        let slot = lane.rest.first;
        if lane.first != NONE || slot == NONE {
            return 0;
        }
        self.exit(lane, slot);
        lane.first = slot;
        self.stand(slot, weight)
    }

    /// Takes the task of a lane out of the ready list.
    fn drain(&mut self, lane: &mut Lane) {
        let slot = std::mem::replace(&mut lane.first, NONE);
        if slot != NONE {
            self.remove(slot, false);
            self.enter(lane, slot, true);
        }
    }

    /// A key is blocked, or not any more, or for another reason.
    fn turn(&mut self, key: &mut Key, to: Option<HeldBy>) {
        let from = std::mem::replace(&mut key.blocked, to);
        for lane in &mut key.lanes {
            let held = &mut self.methods[lane.route as usize].held;
            if let Some(why) = from {
                held[why as usize] -= lane.waiting;
            }
            match to {
                Some(_) => self.drain(lane),
                None => key.uses += self.fill(lane, key.weight),
            }
            if let Some(why) = to {
                self.methods[lane.route as usize].held[why as usize] += lane.waiting;
            }
        }
    }
}

/// The key that a task waits or runs under.
pub(super) fn key_of(tasks: &TaskTable, slot: u32) -> u32 {
    let key = tasks[slot].rare.as_ref().map_or(NONE, |rare| rare.limit);
    debug_assert!(key != NONE, "who waits or runs under a key knows it");
    key
}

impl Methods {
    pub(super) fn lists<'a>(
        &'a mut self,
        tasks: &'a mut TaskTable,
    ) -> (Lists<'a>, &'a mut Limiters) {
        let (methods, woken) = (&mut self.methods, &mut self.woken);
        let lists = Lists {
            methods,
            woken,
            tasks,
        };
        (lists, &mut self.limiters)
    }

    /// Puts a task where READY tasks of its method wait.
    pub(crate) fn push_ready(&mut self, tasks: &mut TaskTable, slot: u32) {
        debug_assert!(
            !tasks[slot].flag(flag::IN_READY | flag::IN_LINE | flag::IN_LANE),
            "a task stands in one list"
        );
        let method = &mut self.methods[tasks[slot].method as usize];
        method.ready_count += 1;
        if !method.keyed {
            return self.lists(tasks).0.push(slot);
        }
        let limiter = method.limiter;
        let key = self.use_key(tasks, slot);
        let (mut lists, limiters) = self.lists(tasks);
        let key = &mut limiters.slab[limiter].keys[key];
        let blocked = key.blocked;
        let (route, priority) = (lists.tasks[slot].method, lists.tasks[slot].priority);
        let lane = key.lane(route, priority.min(PRIORITY_MAX));
        if blocked.is_none() && lane.first == NONE {
            lane.first = slot;
            key.uses += lists.stand(slot, key.weight);
            return;
        }
        lists.enter(lane, slot, false);
        if let Some(why) = blocked {
            lists.methods[route as usize].held[why as usize] += 1;
        }
    }

    /// Takes a READY task out of where it waits, if it does.
    pub(crate) fn remove_ready(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        if !tasks[slot].flag(flag::IN_READY | flag::IN_LANE) {
            return;
        }
        let number = tasks[slot].method;
        let (limiter, keyed) = (self.get(number).limiter, self.get(number).keyed);
        self.take_out(tasks, slot, false);
        if keyed {
            let key = key_of(tasks, slot);
            self.leave_key(tasks, slot, key);
            self.look_at_key(tasks, limiter, key, now);
            self.end_turns(tasks, slot, now);
        }
    }

    /// Takes a READY task out of its list; the next of its lane does not take its place yet.
    fn take_out(&mut self, tasks: &mut TaskTable, slot: u32, begins: bool) {
        self.unlist(tasks, slot, begins);
        self.methods[tasks[slot].method as usize].ready_count -= 1;
    }

    fn unlist(&mut self, tasks: &mut TaskTable, slot: u32, begins: bool) {
        let (number, priority) = (tasks[slot].method, tasks[slot].priority.min(PRIORITY_MAX));
        let method = &self.methods[number as usize];
        let (limiter, keyed) = (method.limiter, method.keyed);
        let (mut lists, limiters) = self.lists(tasks);
        if !keyed {
            return lists.remove(slot, begins);
        }
        let limiter = &mut limiters.slab[limiter];
        let number = key_of(lists.tasks, slot);
        let key = &mut limiter.keys[number];
        let blocked = key.blocked;
        let lane = key.lane(lists.tasks[slot].method, priority);
        if lane.first == slot {
            lane.first = NONE;
            return lists.remove(slot, begins);
        }
        lists.exit(lane, slot);
        if let Some(why) = blocked {
            let route = lists.tasks[slot].method;
            lists.methods[route as usize].held[why as usize] -= 1;
        }
    }

    /// An attempt of the first task of a ready list begins: it leaves the list and is counted by what limits it.
    pub(crate) fn begin(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        let number = tasks[slot].method;
        self.take_out(tasks, slot, true);
        if !self.get(number).restrained {
            return;
        }
        self.take_permit(number);
        // Its key stays in use: the task waited under it and now runs under it.
        self.charge(tasks, slot, now);
        self.count_running(tasks, slot, now);
        self.end_turns(tasks, slot, now);
    }

    /// An attempt begins, as a rate sees it. The key that was charged, if it has the rate.
    fn charge(&mut self, tasks: &TaskTable, slot: u32, now: Millis) -> Option<u32> {
        let number = self.get(tasks[slot].method).limiter;
        let limiter = self.limiters.slab.get_mut(number)?;
        let rate = limiter.limits.rate?;
        if !limiter.limits.rate_by_key {
            limiter.arrival = rate.start(limiter.arrival, now);
            return None;
        }
        let rare = tasks[slot].rare.as_ref();
        let key = match rare.map_or(NONE, |rare| rare.limit) {
            NONE => limiter.find_or_make(rare.and_then(|rare| rare.limit_key.as_ref())),
            known => known,
        };
        let entry = &mut limiter.keys[key];
        entry.arrival = rate.start(entry.arrival, now);
        Some(key)
    }

    /// The log tells that an attempt began.
    pub(crate) fn replay_start(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        let number = self.get(tasks[slot].method).limiter;
        if let Some(key) = self.charge(tasks, slot, now) {
            self.look_at_key(tasks, number, key, now);
            // More keys are forgotten than can be new.
            self.limits_due(tasks, now, 2);
        }
    }

    /// An attempt of the task runs, as concurrency limits see it.
    pub(crate) fn count_running(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        let method = self.get(tasks[slot].method);
        let (number, keyed) = (method.limiter, method.keyed);
        if number == NONE || tasks[slot].flag(flag::COUNTED) {
            return;
        }
        tasks[slot].set_flag(flag::COUNTED, true);
        self.limiters.slab[number].running += 1;
        self.look_at(number, now);
        if keyed {
            let key = self.use_key(tasks, slot);
            self.limiters.slab[number].keys[key].running += 1;
            self.look_at_key(tasks, number, key, now);
        }
    }

    /// It runs no more.
    pub(crate) fn uncount_running(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        if !tasks[slot].flag(flag::COUNTED) {
            return;
        }
        tasks[slot].set_flag(flag::COUNTED, false);
        let method = self.get(tasks[slot].method);
        let (number, keyed) = (method.limiter, method.keyed);
        self.limiters.slab[number].running -= 1;
        self.look_at(number, now);
        if keyed {
            let key = key_of(tasks, slot);
            self.limiters.slab[number].keys[key].running -= 1;
            self.leave_key(tasks, slot, key);
            self.look_at_key(tasks, number, key, now);
        }
    }

    /// The key of a task that waits or runs, now in use by it.
    fn use_key(&mut self, tasks: &mut TaskTable, slot: u32) -> u32 {
        let task = &mut tasks[slot];
        let limiter = &mut self.limiters.slab[self.methods[task.method as usize].limiter];
        let rare = task.rare_mut();
        if rare.limit != NONE {
            return rare.limit;
        }
        let key = limiter.find_or_make(rare.limit_key.as_ref());
        rare.limit = key;
        limiter.keys[key].uses += 1;
        key
    }

    fn leave_key(&mut self, tasks: &mut TaskTable, slot: u32, key: u32) {
        let task = &mut tasks[slot];
        let limiter = self.methods[task.method as usize].limiter;
        if let Some(rare) = task.rare.as_mut() {
            rare.limit = NONE;
        }
        self.limiters.slab[limiter].keys[key].uses -= 1;
    }

    /// Sees whether a method's own limits bar it.
    pub(crate) fn look_at(&mut self, number: u32, now: Millis) {
        let limiter = &mut self.limiters.slab[number];
        let (held, due) = limiter.verdict(now);
        let changed = limiter.held != held;
        limiter.held = held;
        let family = limiter.family;
        self.limiters.set_due(number, NONE, due);
        if changed {
            self.restrain(family);
        }
    }

    /// Sees whether a key is blocked, lets the first of each of its lanes into the ready lists if not, and forgets
    /// the key if it does not matter any more.
    pub(crate) fn look_at_key(
        &mut self,
        tasks: &mut TaskTable,
        number: u32,
        key: u32,
        now: Millis,
    ) {
        let (mut lists, limiters) = self.lists(tasks);
        let limiter = &mut limiters.slab[number];
        let Some(found) = limiter.keys.get(key) else {
            return;
        };
        let (blocked, due) = limiter.verdict_of(found, now);
        let idle = limiter.is_idle(found, now);
        let entry = &mut limiter.keys[key];
        lists.turn(entry, blocked);
        let empty = |lane: &Lane| lane.first == NONE && lane.rest.is_empty();
        entry.lanes.retain(|lane| !empty(lane));
        limiters.set_due(number, key, if idle { 0 } else { due });
        if idle {
            limiters.slab[number].forget(key);
        }
    }

    /// Looks at up to so many limits whose time has come.
    pub(crate) fn limits_due(&mut self, tasks: &mut TaskTable, now: Millis, most: usize) {
        for _ in 0..most {
            let Some(&(at, number, key)) = self.limiters.due.first() else {
                return;
            };
            if at > now {
                return;
            }
            // It is over; looking sets the next one.
            self.limiters.set_due(number, key, 0);
            if key == NONE {
                self.look_at(number, now);
            } else {
                self.look_at_key(tasks, number, key, now);
            }
        }
    }

    /// READY tasks of a method, all its routes together, by number.
    pub(super) fn waiting(&self, tasks: &TaskTable, family: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let walk = |list: &List, found: &mut Vec<u32>| {
            let mut slot = list.first;
            while slot != NONE {
                found.push(slot);
                slot = tasks[slot].link().next;
            }
        };
        for route in self.routes(family) {
            let lists = &self.get(*route).ready;
            lists.iter().for_each(|list| walk(list, &mut found));
        }
        if let Some(limiter) = self.limiters.slab.get(self.get(family).limiter) {
            let lanes = limiter.keys.iter().flat_map(|(_, key)| &key.lanes);
            lanes.for_each(|lane| walk(&lane.rest, &mut found));
        }
        found.sort_unstable_by_key(|slot| tasks[*slot].id);
        found
    }

    /// Limits a method anew that nothing is counted or waits by key for.
    pub(super) fn replace_limiter(&mut self, family: u32, limits: Limits, arrival: Arrival) {
        let old = self.get(family).limiter;
        if old != NONE {
            self.limiters.drop(old);
        }
        let number = if limits.is_none() {
            NONE
        } else {
            let number = self.limiters.make(family, limits);
            self.limiters.slab[number].arrival = arrival;
            number
        };
        for at in 0..self.routes(family).len() {
            let route = self.routes(family)[at];
            let method = &mut self.methods[route as usize];
            method.limiter = number;
            method.keyed = limits.is_keyed();
            method.turns = None;
        }
        self.restrain(family);
        self.weigh_keys(family);
    }
}
