//! Classes of workers that serve the same methods. The dispatcher works by class: what is ready for a class
//! and who in it has room are both at hand, so that a step costs what it does, not what exists.

use crate::state::methods::{Methods, PRIORITY_MAX};
use crate::state::slab::Slab;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

    /// A ready list is not empty any more, or may be served again.
    pub(crate) fn wake(&mut self, method: u32, priority: u8, methods: &Methods) {
        if methods.first_ready(method, priority) == crate::state::slab::NONE {
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
    /// The method whose turn it is: its index, its number, its priority, and whether it is alone with that priority.
    /// Methods without ready tasks, and paused ones, lose their place.
    pub(crate) fn turn(&mut self, methods: &Methods) -> Option<(u32, u32, u8, bool)> {
        for priority in (0..=PRIORITY_MAX).rev() {
            while let Some(&index) = self.rings[usize::from(priority)].front() {
                let method = self.methods[index as usize];
                let ready = methods.first_ready(method, priority) != crate::state::slab::NONE;
                if ready && !methods.is_paused(method) {
                    let alone = self.rings[usize::from(priority)].len() == 1;
                    return Some((index, method, priority, alone));
                }
                self.rings[usize::from(priority)].pop_front();
                self.listed[index as usize] &= !(1 << priority);
            }
        }
        None
    }

    /// Ends the turn of the first method of a priority.
    pub(crate) fn rotate(&mut self, priority: u8) {
        self.rings[usize::from(priority)].rotate_left(1);
    }

    /// READY tasks that the class can be given, counted no further than `enough`.
    pub(crate) fn ready(&mut self, methods: &Methods, enough: u64) -> u64 {
        if self.turn(methods).is_none() {
            return 0;
        }
        let mut sum = 0;
        for (priority, ring) in self.rings.iter().enumerate().rev() {
            for index in ring {
                // A method may stand in several rings and is counted where it stands first.
                let highest = self.listed[*index as usize].ilog2() as usize;
                let method = self.methods[*index as usize];
                if highest == priority && !methods.is_paused(method) {
                    sum += methods.get(method).ready_count;
                }
                if sum >= enough {
                    return enough;
                }
            }
        }
        sum
    }
}
