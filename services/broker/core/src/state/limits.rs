//! What limits of methods know: how many attempts run, when the next may begin, and which keys there are.
//!
//! How many run is derived from the tasks. When the next may begin follows from the starts that the log tells, and is
//! in snapshots. A key is forgotten once nothing runs or waits under it and its rate has recovered.

use super::list::List;
use super::slab::{NONE, Slab};
use super::slots::SlotTable;
use crate::effect::HeldBy;
use crate::ids::Millis;
use crate::image::KeyArrival;
use crate::policy::{Limits, Rate};
use crate::rate::Arrival;
use crate::weight::Weights;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Keys that only have to be forgotten wait for the next multiple of this, ms: one wake-up serves them all.
const FORGET_STEP_MS: u64 = 1_024;

/// Tasks that are gone may stay among those that wait up to this number and that of those that do.
const WAITING_GONE_MAX: usize = 64;

/// The tasks of one key that go by one route and have one priority. Unless the key is blocked, the first of them stands
/// in the ready list; the others wait here.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) route: u32,
    pub(crate) priority: u8,
    /// The one in the ready list, or NONE.
    pub(crate) first: u32,
    pub(crate) rest: List,
    /// How many are in `rest`.
    pub(crate) waiting: u64,
}

/// Tasks of one route that wait in lanes, about in the order in which they came: for telling the age of the oldest.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Some are gone meanwhile; never the first.
    queue: VecDeque<u32>,
    count: usize,
}

impl Waiting {
    /// A task waits; `again`: it did before, so it is older than most.
    pub(crate) fn add(&mut self, slot: u32, again: bool) {
        self.count += 1;
        if again {
            self.queue.push_front(slot);
        } else {
            self.queue.push_back(slot);
        }
    }

    /// A task waits no more, and says so itself by now.
    pub(crate) fn remove(&mut self, waits: impl Fn(u32) -> bool) {
        self.count -= 1;
        if self.queue.len() > 2 * self.count + WAITING_GONE_MAX {
            self.queue.retain(|slot| waits(*slot));
        }
        while self.queue.front().is_some_and(|slot| !waits(*slot)) {
            self.queue.pop_front();
        }
    }

    pub(crate) fn oldest(&self) -> Option<u32> {
        self.queue.front().copied()
    }
}

/// One key of a method, while it matters.
#[derive(Debug)]
pub(crate) struct Key {
    /// None: tasks without a key.
    text: Option<Arc<str>>,
    /// Attempts that run.
    pub(crate) running: u32,
    /// Tasks that wait or run under it, and ready lists that remember its turns.
    pub(crate) uses: u64,
    pub(crate) arrival: Arrival,
    /// Why none of its tasks may start.
    pub(crate) blocked: Option<HeldBy>,
    /// Its share of turns beside other keys.
    pub(crate) weight: u16,
    /// When it is to be looked at again; 0: never.
    pub(crate) due: Millis,
    pub(crate) lanes: Vec<Lane>,
}

/// The limits of one method, over all its routes.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// The method's first route.
    pub(crate) family: u32,
    pub(crate) limits: Limits,
    /// Attempts that run.
    pub(crate) running: u64,
    pub(crate) arrival: Arrival,
    /// Why no task of the method may start.
    pub(crate) held: Option<HeldBy>,
    pub(crate) due: Millis,
    pub(crate) keys: Slab<Key>,
    /// Weights of keys, if some have any.
    pub(crate) weights: Option<Arc<Weights>>,
    by_text: SlotTable,
}

/// The limits of all methods.
#[derive(Debug, Default)]
pub(crate) struct Limiters {
    pub(crate) slab: Slab<Limiter>,
    /// Limiters and keys (or NONE) to look at again, by time.
    pub(crate) due: BTreeSet<(Millis, u32, u32)>,
    seed: u64,
}

impl Limiters {
    /// With a seed that whoever chooses keys does not know.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    pub(crate) fn make(&mut self, family: u32, limits: Limits) -> u32 {
        self.slab.insert(Limiter {
            family,
            limits,
            running: 0,
            arrival: Arrival::default(),
            held: None,
            due: 0,
            keys: Slab::default(),
            weights: None,
            by_text: SlotTable::seeded(self.seed),
        })
    }

    /// Lets a limiter go that nothing waits or runs under.
    pub(crate) fn drop(&mut self, number: u32) {
        self.due.retain(|(_, limiter, _)| *limiter != number);
        self.slab.remove(number);
    }

    /// When something is to be looked at again.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Sets when a limiter, or a key of it, is to be looked at; 0: never.
    pub(crate) fn set_due(&mut self, number: u32, key: u32, at: Millis) {
        let limiter = &mut self.slab[number];
        let due = match limiter.keys.get_mut(key) {
            Some(key) => &mut key.due,
            None => &mut limiter.due,
        };
        if *due == at {
            return;
        }
        let before = std::mem::replace(due, at);
        if before > 0 {
            self.due.remove(&(before, number, key));
        }
        if at > 0 {
            self.due.insert((at, number, key));
        }
    }
}

impl Limiter {
    /// Why no task of the method may start now, and when that may change by itself (0: never).
    pub(crate) fn verdict(&self, now: Millis) -> (Option<HeldBy>, Millis) {
        let most = u64::from(self.limits.running_max);
        if most > 0 && self.running >= most {
            return (Some(HeldBy::Concurrency), 0);
        }
        match self.limits.method_rate() {
            Some(rate) if !rate.may(self.arrival, now) => {
                (Some(HeldBy::Rate), rate.next(self.arrival))
            }
            _ => (None, 0),
        }
    }

    /// How many of its tasks the method's own limits let start now.
    pub(crate) fn permits(&self, now: Millis) -> u64 {
        if self.held.is_some() {
            return 0;
        }
        let room = match self.limits.running_max {
            0 => u64::MAX,
            most => u64::from(most).saturating_sub(self.running),
        };
        let rate = self.limits.method_rate();
        room.min(rate.map_or(u64::MAX, |rate| rate.permits(self.arrival, now)))
    }

    /// Why no task of a key may start now, and when to look at the key again (0: never).
    pub(crate) fn verdict_of(&self, key: &Key, now: Millis) -> (Option<HeldBy>, Millis) {
        let most = self.limits.running_per_key_max;
        if most > 0 && key.running >= most {
            return (Some(HeldBy::KeyConcurrency), 0);
        }
        match self.limits.key_rate() {
            Some(rate) if !rate.may(key.arrival, now) => {
                (Some(HeldBy::KeyRate), rate.next(key.arrival))
            }
            Some(rate) if key.uses == 0 && !rate.is_rested(key.arrival, now) => {
                let rested = rate.rested(key.arrival);
                (None, rested.next_multiple_of(FORGET_STEP_MS))
            }
            _ => (None, 0),
        }
    }

    /// Whether nothing of a key needs to be remembered.
    pub(crate) fn is_idle(&self, key: &Key, now: Millis) -> bool {
        let rested = |rate: Rate| rate.is_rested(key.arrival, now);
        key.uses == 0 && self.limits.key_rate().is_none_or(rested)
    }

    /// The number of a key that is known.
    pub(crate) fn find(&self, text: Option<&Arc<str>>) -> Option<u32> {
        let is = |key: u32| self.keys[key].text.as_ref() == text;
        self.by_text.find(self.by_text.hash(text), is)
    }

    /// The weight that a key is to have.
    fn weight_of(&self, text: Option<&Arc<str>>) -> u16 {
        let weights = self.weights.as_ref();
        weights.map_or(1, |weights| weights.of(text) as u16)
    }

    /// Gives keys other weights. Those that are known and have another one now.
    pub(crate) fn weigh(&mut self, weights: Option<Arc<Weights>>) -> Vec<u32> {
        let before = std::mem::replace(&mut self.weights, weights);
        let both = [before.as_ref(), self.weights.as_ref()];
        let texts = both.into_iter().flatten().flat_map(|each| each.keys());
        let known: BTreeSet<u32> = texts.filter_map(|text| self.find(Some(text))).collect();
        let mut changed = Vec::new();
        for key in known {
            let weight = self.weight_of(self.keys[key].text.as_ref());
            if std::mem::replace(&mut self.keys[key].weight, weight) != weight {
                changed.push(key);
            }
        }
        changed
    }

    /// The number of a key, which is made if it is new.
    pub(crate) fn find_or_make(&mut self, text: Option<&Arc<str>>) -> u32 {
        let hash = self.by_text.hash(text);
        let keys = &self.keys;
        let is = |key: u32| keys[key].text.as_ref() == text;
        if let Some(key) = self.by_text.find(hash, is) {
            return key;
        }
        let number = self.keys.insert(Key {
            text: text.cloned(),
            running: 0,
            uses: 0,
            arrival: Arrival::default(),
            blocked: None,
            weight: self.weight_of(text),
            due: 0,
            lanes: Vec::new(),
        });
        self.by_text.put(hash, number, |_| false);
        number
    }

    /// Forgets a key that nothing waits or runs under.
    pub(crate) fn forget(&mut self, number: u32) {
        if let Some(key) = self.keys.remove(number) {
            let hash = self.by_text.hash(key.text.as_ref());
            self.by_text.remove(hash, number);
        }
    }

    /// Keys whose rate has not recovered: what a snapshot has of them.
    pub(crate) fn spent(&self, rate: Rate, now: Millis) -> Vec<KeyArrival> {
        let keys = self.keys.iter().map(|(_, key)| key);
        let spent = keys.filter(|key| !rate.is_rested(key.arrival, now));
        spent
            .map(|key| (key.text.clone(), rate.parts(key.arrival)))
            .collect()
    }
}

impl Key {
    /// The lane of a route and priority, which is made if it is new.
    pub(crate) fn lane(&mut self, route: u32, priority: u8) -> &mut Lane {
        let at = self.lane_at(route, priority).unwrap_or_else(|| {
            self.lanes.push(Lane {
                route,
                priority,
                first: NONE,
                rest: List::default(),
                waiting: 0,
            });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }

    pub(crate) fn lane_at(&self, route: u32, priority: u8) -> Option<usize> {
        let mut lanes = self.lanes.iter();
        lanes.position(|lane| (lane.route, lane.priority) == (route, priority))
    }
}
