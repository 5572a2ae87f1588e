//! Classes of workers that serve the same methods. The dispatcher works by class: what is ready for a class
//! and who in it has room are both at hand, so that a step costs what it does, not what exists.

use super::guard::Guard;
use crate::ids::Millis;
use crate::state::methods::{Methods, PRIORITY_MAX};
use crate::state::slab::{NONE, Slab};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Tasks of one method that a worker gets in a row while other methods of the same priority wait.
const TURN: u64 = 16;

/// Workers with the same methods.
#[derive(Debug)]
pub(crate) struct Class {
    /// Numbers of its methods, ascending.
    pub(crate) methods: Vec<u32>,
    workers: u32,
    /// Workers with room: (load, served last, worker), so the least loaded one is first.
    pub(crate) hungry: BTreeSet<(u32, u64, u32)>,
    /// For each priority the methods (by index) that may have ready tasks, in turn.
    rings: Vec<VecDeque<u32>>,
    /// For each method a bit for each priority: it stands in that ring.
    listed: Vec<u16>,
    guard: Guard,
}

/// Whose turn it is in a class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Index of the method in its class.
    pub(crate) index: u32,
    pub(crate) method: u32,
    pub(crate) priority: u8,
    /// How many tasks it gets.
    pub(crate) most: u64,
    pub(crate) kind: Kind,
}

/// How a turn stands to other priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No lower priority has a task that may start.
    Alone,
    /// It passes over a list, of this method and priority, whose first task may start.
    Over(u32, u8),
    /// It is a lower priority's, for the guard against starvation.
    Guarded,
}

/// All classes.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    pub(crate) list: Slab<Class>,
    by_methods: BTreeMap<Vec<u32>, u32>,
    /// For each method its classes, and its index in each.
    of_method: Vec<Vec<(u32, u32)>>,
    /// Classes that may have both work and room.
    pub(crate) active: BTreeSet<u32>,
    /// Of the class that went last, for the next one that comes: workers that serve few tasks and leave, one after
    /// the other, starve nobody either.
    guard: Guard,
}

impl Classes {
    /// The class of a set of methods, which is ascending and without repetition.
    pub(crate) fn find_or_make(&mut self, set: &[u32], methods: &Methods) -> u32 {
        if let Some(class) = self.by_methods.get(set) {
            return *class;
        }
        let number = self.list.insert(Class {
            methods: set.to_vec(),
            workers: 0,
            hungry: BTreeSet::new(),
            rings: vec![VecDeque::new(); usize::from(PRIORITY_MAX) + 1],
            listed: vec![0; set.len()],
            guard: std::mem::take(&mut self.guard),
        });
        self.by_methods.insert(set.to_vec(), number);
        for (index, method) in set.iter().enumerate() {
            let at = *method as usize;
            if self.of_method.len() <= at {
                self.of_method.resize_with(at + 1, Vec::new);
            }
            self.of_method[at].push((number, index as u32));
            for priority in 0..=PRIORITY_MAX {
                self.wake(*method, priority, methods);
            }
        }
        number
    }

    pub(crate) fn joined(&mut self, class: u32) {
        self.list[class].workers += 1;
    }

    pub(crate) fn left(&mut self, class: u32) {
        self.list[class].workers -= 1;
        if self.list[class].workers > 0 {
            return;
        }
        self.active.remove(&class);
        let Some(gone) = self.list.remove(class) else {
            return;
        };
        self.guard = gone.guard;
        for method in &gone.methods {
            self.of_method[*method as usize].retain(|(other, _)| *other != class);
        }
        self.by_methods.remove(&gone.methods);
    }

    /// A worker of a class has room.
    pub(crate) fn feed(&mut self, class: u32, entry: (u32, u64, u32)) {
        self.list[class].hungry.insert(entry);
        self.active.insert(class);
    }

    /// Whether an attached worker serves a method.
    pub(crate) fn serve(&self, method: u32) -> bool {
        let classes = self.of_method.get(method as usize);
        classes.is_some_and(|classes| !classes.is_empty())
    }

    /// A ready list is not empty any more, or may be served again.
    pub(crate) fn wake(&mut self, method: u32, priority: u8, methods: &Methods) {
        if methods.first_ready(method, priority) == NONE {
            return;
        }
        let Some(classes) = self.of_method.get(method as usize) else {
            return;
        };
        for (class, index) in classes {
            let entry = &mut self.list[*class];
            let listed = &mut entry.listed[*index as usize];
            if *listed & 1 << priority == 0 {
                *listed |= 1 << priority;
                entry.rings[usize::from(priority)].push_back(*index);
                self.active.insert(*class);
            }
        }
    }
}

impl Class {
    /// Whose turn it is: the highest priority's, or, if it is owed one, that of the lower priority that had such a
    /// turn longest ago. One that may start nothing takes no turn.
    pub(crate) fn turn(&mut self, methods: &Methods) -> Option<Turn> {
        let (top, index) = self.highest(PRIORITY_MAX + 1, methods)?;
        let Some((lower, under)) = self.highest(top, methods) else {
            return Some(self.turn_of(top, index, Kind::Alone));
        };
        let left = u64::from(self.guard.left());
        if left > 0 {
            let over = Kind::Over(self.methods[under as usize], lower);
            let turn = self.turn_of(top, index, over);
            let most = turn.most.min(left);
            return Some(Turn { most, ..turn });
        }
        let mut order = self.guard.order().into_iter();
        let (priority, index) = order.find_map(|priority| {
            let index = self.front(priority, methods).filter(|_| priority < top)?;
            Some((priority, index))
        })?;
        let turn = self.turn_of(priority, index, Kind::Guarded);
        Some(Turn { most: 1, ..turn })
    }

    fn turn_of(&self, priority: u8, index: u32, kind: Kind) -> Turn {
        let alone = self.rings[usize::from(priority)].len() == 1;
        Turn {
            index,
            method: self.methods[index as usize],
            priority,
            most: if alone { u64::MAX } else { TURN },
            kind,
        }
    }

    /// The highest priority below one that has something to start, and the index of the method that is first there.
    fn highest(&mut self, below: u8, methods: &Methods) -> Option<(u8, u32)> {
        (0..below).rev().find_map(|priority| {
            let index = self.front(priority, methods)?;
            Some((priority, index))
        })
    }

    /// The index of the first method of a priority. Methods without ready tasks, and those that may not start any,
    /// lose their place.
    fn front(&mut self, priority: u8, methods: &Methods) -> Option<u32> {
        let ring = &mut self.rings[usize::from(priority)];
        while let Some(&index) = ring.front() {
            if methods.may_start_first(self.methods[index as usize], priority) {
                return Some(index);
            }
            ring.pop_front();
            self.listed[index as usize] &= !(1 << priority);
        }
        None
    }

    /// Ends the turn of the first method of a priority.
    pub(crate) fn rotate(&mut self, priority: u8) {
        self.rings[usize::from(priority)].rotate_left(1);
    }

    /// A task began in a turn.
    pub(crate) fn began(&mut self, turn: &Turn) {
        match turn.kind {
            Kind::Alone => {}
            Kind::Over(..) => self.guard.pass(),
            Kind::Guarded => self.guard.turn(turn.priority),
        }
    }

    /// READY tasks that the class can be given, counted no further than `enough`.
    pub(crate) fn ready(&mut self, methods: &Methods, enough: u64, now: Millis) -> u64 {
        if self.turn(methods).is_none() {
            return 0;
        }
        let mut sum = 0;
        for (priority, ring) in self.rings.iter().enumerate().rev() {
            for index in ring {
                // A method may stand in several rings and is counted where it stands first.
                let highest = self.listed[*index as usize].ilog2() as usize;
                let method = self.methods[*index as usize];
                if highest == priority && methods.may_start(method) {
                    sum += methods.startable(method, now);
                }
                if sum >= enough {
                    return enough;
                }
            }
        }
        sum
    }
}
