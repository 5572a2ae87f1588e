//! Classes of workers that serve the same methods. The dispatcher works by class: what is ready for a class
//! and who in it has room are both at hand, so that a step costs what it does, not what exists.

use super::guard::Guard;
use super::ranks::{self, RANKS, RankSet};
use super::reserve::{Offer, Reserve};
use super::shares::Shares;
use super::workers::FULL;
use crate::ids::Millis;
use crate::policy::Latency;
use crate::state::methods::{Methods, PRIORITY_MAX};
use crate::state::slab::{NONE, Slab};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks of one method that a worker gets in a row while other methods of the same rank and queue wait.
const TURN: u64 = 16;

/// Workers with the same methods.
#[derive(Debug)]
pub(crate) struct Class {
    /// Numbers of its methods, ascending.
    pub(crate) methods: Vec<u32>,
    workers: u32,
    /// Workers with room: (load, served last, worker), so the least loaded one is first.
    pub(crate) hungry: BTreeSet<(u32, u64, u32)>,
    /// How many of them have a free slot.
    free: usize,
    /// For each rank the queues with methods (by index) that may have ready tasks.
    shares: Vec<Shares>,
    /// Ranks of which there are any.
    ranks: RankSet,
    /// For each method the ranks in which it stands.
    listed: Vec<RankSet>,
    guard: Guard,
    reserve: Reserve,
}

/// Whose turn it is in a class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Index of the method in its class.
    pub(crate) index: u32,
    pub(crate) method: u32,
    queue: u32,
    pub(crate) priority: u8,
    pub(crate) rank: u8,
    /// How many tasks it gets.
    pub(crate) most: u64,
    pub(crate) kind: Kind,
}

/// How a turn stands to other ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No lower rank has a task that may start.
    Alone,
    /// It passes over a list, of this method and priority, whose first task may start.
    Over(u32, u8),
    /// It is a lower rank's, for the guard against starvation.
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
    /// The same: what queues have had of each rank.
    shares: Vec<Shares>,
    /// Changes of latency classes that were heeded.
    heeded: u64,
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
            free: 0,
            shares: std::mem::take(&mut self.shares),
            ranks: RankSet::default(),
            listed: vec![RankSet::default(); set.len()],
            guard: std::mem::take(&mut self.guard),
            reserve: Reserve::default(),
        });
        self.list[number].shares.resize_with(RANKS, Shares::default);
        self.list[number].find_reserve(methods);
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
        self.shares = gone.shares.into_iter().map(Shares::left).collect();
        for method in &gone.methods {
            self.of_method[*method as usize].retain(|(other, _)| *other != class);
        }
        self.by_methods.remove(&gone.methods);
    }

    /// A worker of a class has room.
    pub(crate) fn feed(&mut self, class: u32, entry: (u32, u64, u32)) {
        self.list[class].hungry.insert(entry);
        self.list[class].free += usize::from(entry.0 < FULL);
        self.active.insert(class);
    }

    /// It has none any more, or another place.
    pub(crate) fn unlist(&mut self, class: u32, entry: (u32, u64, u32)) {
        self.list[class].hungry.remove(&entry);
        self.list[class].free -= usize::from(entry.0 < FULL);
    }

    /// A worker brings something else to its class than before, so others of it may have room.
    pub(crate) fn replace(&mut self, class: u32, before: &Offer, now: &Offer) {
        self.list[class].reserve.replace(before, now);
        self.active.insert(class);
    }

    /// Finds the reserves anew if methods have got other latency classes.
    pub(crate) fn heed(&mut self, methods: &Methods) {
        if self.heeded != methods.latency_changes {
            self.heeded = methods.latency_changes;
            let numbers: Vec<u32> = self.list.iter().map(|(number, _)| number).collect();
            for number in numbers {
                self.list[number].find_reserve(methods);
                self.active.insert(number);
            }
        }
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
        let rank = ranks::rank(methods, method, priority);
        let (queue, weight) = methods.share(method);
        for (class, index) in classes {
            let entry = &mut self.list[*class];
            let listed = &mut entry.listed[*index as usize];
            if !listed.has(rank) {
                listed.add(rank);
                entry.ranks.add(rank);
                entry.shares[usize::from(rank)].push(queue, weight, *index);
                self.active.insert(*class);
            }
        }
    }
}

impl Class {
    fn find_reserve(&mut self, methods: &Methods) {
        let served = self.methods.iter();
        self.reserve
            .serve(served.map(|method| methods.policy(*method).latency));
    }

    /// How many of the hungry workers have a free slot, where that matters and any has.
    pub(crate) fn with_free_slots(&self) -> Option<usize> {
        if !self.reserve.is_mixed() {
            return None;
        }
        (self.free > 0).then_some(self.free)
    }

    /// Whose turn it is on a worker with so many free slots: the highest rank's, or, if it is owed one, that of the
    /// lower rank that had such a turn longest ago. One that may start nothing takes no turn.
    ///
    /// Where higher latency classes are served as well, attempts of the lower ones are not given to workers ahead: one
    /// that comes then would wait behind them. What is owed by the highest class needs no free slot: it would be owed
    /// for ever where that class fills all of them.
    pub(crate) fn turn(&mut self, free: u64, methods: &Methods) -> Option<Turn> {
        let (top, index) = self.highest(RANKS as u8, methods)?;
        let latency = ranks::latency(top);
        let lower = self.reserve.is_lower(latency);
        let room = self
            .reserve
            .room(latency)
            .min(if lower { free } else { u64::MAX });
        let turn = match self.highest(top, methods) {
            None => self.turn_of(top, index, Kind::Alone),
            Some((under, passed)) => {
                let left = u64::from(self.guard.left());
                if left == 0 && room > 0 {
                    return self.guarded(top, methods);
                }
                let method = self.methods[passed as usize];
                let over = Kind::Over(method, ranks::priority(under));
                let turn = self.turn_of(top, index, over);
                let most = turn.most.min(left);
                Turn { most, ..turn }
            }
        };
        let most = turn.most.min(room);
        (most > 0).then_some(Turn { most, ..turn })
    }

    /// The turn that is owed to one below a rank.
    fn guarded(&mut self, top: u8, methods: &Methods) -> Option<Turn> {
        let mut order = self.guard.order().into_iter();
        let (rank, index) = order.find_map(|rank| {
            let index = self.front(rank, methods).filter(|_| rank < top)?;
            Some((rank, index))
        })?;
        let turn = self.turn_of(rank, index, Kind::Guarded);
        Some(Turn { most: 1, ..turn })
    }

    fn turn_of(&self, rank: u8, index: u32, kind: Kind) -> Turn {
        let shares = &self.shares[usize::from(rank)];
        let queue = shares.first().map_or(0, |(queue, _)| queue);
        let most = if shares.is_single(queue) {
            u64::MAX
        } else {
            TURN
        };
        Turn {
            index,
            method: self.methods[index as usize],
            queue,
            priority: ranks::priority(rank),
            rank,
            most: most.min(shares.most()),
            kind,
        }
    }

    /// The highest rank below one that has something to start, and the index of the method that is first there.
    fn highest(&mut self, below: u8, methods: &Methods) -> Option<(u8, u32)> {
        let mut below = below;
        while let Some(rank) = self.ranks.highest(below) {
            if let Some(index) = self.front(rank, methods) {
                return Some((rank, index));
            }
            below = rank;
        }
        None
    }

    /// The index of the first method of the first queue of a rank that leaves what is kept from it. Methods without
    /// ready tasks, those that may not start any, and those whose rank is another one by now, lose their place.
    fn front(&mut self, rank: u8, methods: &Methods) -> Option<u32> {
        if !self.ranks.has(rank) || self.reserve.room(ranks::latency(rank)) == 0 {
            return None;
        }
        let shares = &mut self.shares[usize::from(rank)];
        let priority = ranks::priority(rank);
        while let Some((listed, index)) = shares.first() {
            let method = self.methods[index as usize];
            let is_here = ranks::rank(methods, method, priority) == rank;
            let may = is_here && methods.may_start_first(method, priority);
            let (queue, weight) = methods.share(method);
            if may && listed == queue {
                return Some(index);
            }
            shares.pop();
            if may {
                // It has moved to another queue.
                shares.push(queue, weight, index);
            } else {
                self.listed[index as usize].remove(rank);
            }
        }
        self.ranks.remove(rank);
        None
    }

    /// Ends a turn, in which so many tasks began: the next one is another method's.
    pub(crate) fn ended(&mut self, turn: &Turn, began: u64, methods: &Methods) {
        let shares = &mut self.shares[usize::from(turn.rank)];
        shares.rotate(turn.queue);
        shares.charge(turn.queue, methods.weight(turn.queue), began);
    }

    /// A task began in a turn.
    pub(crate) fn began(&mut self, turn: &Turn) {
        match turn.kind {
            Kind::Alone => {}
            Kind::Over(..) => self.guard.pass(),
            Kind::Guarded => self.guard.turn(turn.rank),
        }
    }

    /// READY tasks that the class can be given, counted no further than `enough`.
    pub(crate) fn ready(&mut self, methods: &Methods, enough: u64, now: Millis) -> u64 {
        if self.highest(RANKS as u8, methods).is_none() {
            return 0;
        }
        let mut sum = 0;
        for latency in Latency::ALL.into_iter().rev() {
            let room = self.reserve.room(latency);
            sum += self.ready_of(latency, methods, enough, now).min(room);
        }
        sum.min(enough)
    }

    fn ready_of(&self, latency: Latency, methods: &Methods, enough: u64, now: Millis) -> u64 {
        let mut sum = 0;
        let mut below = ranks::end(latency);
        while let Some(rank) = self
            .ranks
            .highest(below)
            .filter(|rank| ranks::latency(*rank) == latency)
        {
            for index in self.shares[usize::from(rank)].methods() {
                // A method may have several ranks and is counted in the highest.
                let highest = self.listed[index as usize].highest(RANKS as u8);
                let method = self.methods[index as usize];
                if highest == Some(rank) && methods.may_start(method) {
                    sum += methods.startable(method, now);
                }
                if sum >= enough {
                    return enough;
                }
            }
            below = rank;
        }
        sum
    }
}
