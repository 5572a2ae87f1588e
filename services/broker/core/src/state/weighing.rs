//! Weights of keys that change, and keys whose turns are over.

use super::lanes::key_of;
use super::methods::{Methods, PRIORITIES};
use super::slab::NONE;
use super::table::TaskTable;
use crate::ids::Millis;
use crate::weight::Weights;
use std::sync::Arc;

impl Methods {
    /// Gives keys of a method weights, in place of all that they had. It costs the keys whose weights change; for the
    /// first weight of a method, and the last one, all that have a task waiting.
    pub(crate) fn set_weights(
        &mut self,
        tasks: &mut TaskTable,
        (method, weights): (&Arc<str>, Weights),
        now: Millis,
    ) {
        // Tasks whose side is not looked at yet would be moved away from where that is remembered.
        self.sort(tasks, usize::MAX, now);
        let weights = (!weights.is_empty()).then(|| Arc::new(weights));
        match &weights {
            Some(weights) => self.weights.insert(Arc::clone(method), Arc::clone(weights)),
            None => self.weights.remove(method),
        };
        let Some(&first) = self.routes_of(method).first() else {
            return;
        };
        if !self.get(first).keyed {
            return;
        }
        let number = self.get(first).limiter;
        match (self.get(first).turns.is_some(), weights) {
            (false, None) => {}
            (true, Some(weights)) => {
                for key in self.limiters.slab[number].weigh(Some(weights)) {
                    self.reweigh(tasks, first, key);
                }
            }
            (false, Some(_)) => self.begin_turns(tasks, first),
            (true, None) => {
                self.limiters.slab[number].weigh(None);
                self.drop_turns(tasks, first, now);
            }
        }
    }

    /// Gives the keys of a method their weights, in turns that nobody has had. None of its tasks stands in a ready
    /// list.
    pub(super) fn weigh_keys(&mut self, family: u32) {
        let first = self.get(family);
        let weights = self.weights.get(&first.path).filter(|_| first.keyed);
        let Some(weights) = weights.cloned() else {
            return;
        };
        let number = first.limiter;
        self.limiters.slab[number].weigh(Some(weights));
        for list in self.routes(family).to_vec() {
            self.methods[list as usize].turns = Some(Box::default());
        }
    }

    /// From now on keys have turns by weight. Who stands in a list begins at the same point.
    fn begin_turns(&mut self, tasks: &mut TaskTable, first: u32) {
        let standing = self.standing(tasks, first);
        let (mut lists, _) = self.lists(tasks);
        for slot in &standing {
            lists.remove(*slot, false);
        }
        self.weigh_keys(self.family_of(first));
        for slot in standing {
            self.stand(tasks, slot);
        }
    }

    /// The tasks in all ready lists of a method.
    fn standing(&self, tasks: &TaskTable, first: u32) -> Vec<u32> {
        let mut found = Vec::new();
        for list in self.routes(first) {
            for ready in &self.get(*list).ready {
                let mut slot = ready.first;
                while slot != NONE {
                    found.push(slot);
                    slot = tasks[slot].link().next;
                }
            }
        }
        found
    }

    /// From now on keys have turns one by one.
    fn drop_turns(&mut self, tasks: &mut TaskTable, first: u32, now: Millis) {
        let number = self.get(first).limiter;
        let mut keys = Vec::new();
        for list in self.routes(first).to_vec() {
            let turns = self.methods[list as usize].turns.take();
            let each = turns.iter().flat_map(|turns| turns.iter());
            keys.extend(each.flat_map(|turns| turns.keys()));
        }
        for key in keys {
            self.release(tasks, (number, key), now);
        }
    }

    /// Puts a key where it belongs by its other weight.
    fn reweigh(&mut self, tasks: &mut TaskTable, first: u32, key: u32) {
        let weight = self.limiters.slab[self.get(first).limiter].keys[key].weight;
        for list in self.routes(first).to_vec() {
            let method = &mut self.methods[list as usize];
            let Some(turns) = &mut method.turns else {
                continue;
            };
            for (turns, ready) in turns.iter_mut().zip(&mut method.ready) {
                if let Some((slot, next)) = turns.reweigh(key, u32::from(weight)) {
                    ready.remove(tasks, slot);
                    ready.insert_before(tasks, slot, next);
                }
            }
        }
    }

    fn stand(&mut self, tasks: &mut TaskTable, slot: u32) {
        let (mut lists, limiters) = self.lists(tasks);
        let number = lists.methods[lists.tasks[slot].method as usize].limiter;
        let key = &mut limiters.slab[number].keys[key_of(lists.tasks, slot)];
        key.uses += lists.stand(slot, key.weight);
    }

    /// Moves a task from the ready list where it stands into the one where it belongs now.
    pub(super) fn stand_again(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        self.lists(tasks).0.remove(slot, false);
        self.stand(tasks, slot);
        self.end_turns(tasks, slot, now);
    }

    /// A task left where it waited: forgets keys whose turns are over by that.
    pub(super) fn end_turns(&mut self, tasks: &mut TaskTable, slot: u32, now: Millis) {
        let (route, priority) = (tasks[slot].method, usize::from(tasks[slot].priority));
        let (number, second) = (self.get(route).limiter, self.get(route).second);
        for list in [route, second] {
            let over = |methods: &mut Self| {
                let turns = methods.methods.get_mut(list as usize)?.turns.as_mut()?;
                turns[priority.min(PRIORITIES - 1)].forget()
            };
            while let Some(key) = over(self) {
                self.release(tasks, (number, key), now);
            }
        }
    }

    /// A ready list remembers a key no more.
    fn release(&mut self, tasks: &mut TaskTable, (number, key): (u32, u32), now: Millis) {
        self.limiters.slab[number].keys[key].uses -= 1;
        self.look_at_key(tasks, number, key, now);
    }
}
