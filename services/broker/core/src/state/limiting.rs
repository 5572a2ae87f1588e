//! Limits that change: what waits and what runs is put where the new ones want it.

use super::State;
use super::slab::NONE;
use crate::ids::Millis;
use crate::image::{Image, KeyArrival, RateImage};
use crate::policy::{Limits, MethodPolicy, Rate};
use crate::rate::Arrival;
use crate::record::Record;
use std::sync::Arc;

/// Keys with a rate that one record of a snapshot tells of.
const KEYS_AT_ONCE: usize = 4_096;

impl State {
    /// Puts a policy in force. Of several routes, the method's own path says what limits all of them.
    pub(super) fn apply_policy(&mut self, policy: &MethodPolicy) {
        self.methods.apply(policy);
        let Some(route) = self.methods.find(&policy.method) else {
            return;
        };
        let path = &self.methods.get(route).path;
        if **path == *policy.method || self.methods.find(path).is_none() {
            let family = self.methods.family_of(route);
            self.limit(family, sound(policy.limits), self.time);
        }
    }

    fn limit(&mut self, family: u32, limits: Limits, now: Millis) {
        let number = self.methods.get(family).limiter;
        let before = self.methods.limiters.slab.get(number);
        let before = before.map_or_else(Limits::default, |limiter| limiter.limits);
        if before == limits {
            return;
        }
        let same = before.is_keyed() == limits.is_keyed();
        if number != NONE && same && !limits.is_none() {
            self.relimit(number, limits, now);
        } else {
            self.rebuild(family, limits, now);
        }
    }

    /// Other numbers for what is limited already.
    fn relimit(&mut self, number: u32, limits: Limits, now: Millis) {
        let limiter = &mut self.methods.limiters.slab[number];
        let before = std::mem::replace(&mut limiter.limits, limits);
        let rates = (before.method_rate(), limits.method_rate());
        limiter.arrival = carried(rates, limiter.arrival, now);
        let keys: Vec<u32> = limiter.keys.iter().map(|(key, _)| key).collect();
        let rates = (before.key_rate(), limits.key_rate());
        for key in keys {
            let entry = &mut self.methods.limiters.slab[number].keys[key];
            entry.arrival = carried(rates, entry.arrival, now);
            let tasks = &mut self.tasks;
            self.methods.look_at_key(tasks, number, key, now);
        }
        self.methods.look_at(number, now);
    }

    /// Takes what waits and runs out of one limiter, if there is one, and puts it into another, if there is to be one.
    /// It costs what waits and runs.
    fn rebuild(&mut self, family: u32, limits: Limits, now: Millis) {
        let number = self.methods.get(family).limiter;
        let before = self.methods.limiters.slab.get(number);
        let (old, arrival) = before.map_or_else(Default::default, |limiter| {
            (limiter.limits, limiter.arrival)
        });
        let moves = old.is_keyed() || limits.is_keyed();
        let waiting = if moves {
            self.methods.waiting(&self.tasks, family)
        } else {
            Vec::new()
        };
        let running = self.running(family);
        for slot in &waiting {
            self.methods.remove_ready(&mut self.tasks, *slot, now);
        }
        for slot in &running {
            self.methods.uncount_running(&mut self.tasks, *slot, now);
        }
        let arrival = carried((old.method_rate(), limits.method_rate()), arrival, now);
        self.methods.replace_limiter(family, limits, arrival);
        for slot in running {
            self.methods.count_running(&mut self.tasks, slot, now);
        }
        for slot in waiting {
            self.methods.push_ready(&mut self.tasks, slot);
        }
        if self.methods.get(family).limiter != NONE {
            self.methods.look_at(self.methods.get(family).limiter, now);
        }
    }

    /// Tasks of a method that hold a lease, where that is counted.
    fn running(&self, family: u32) -> Vec<u32> {
        if !self.indexed {
            return Vec::new();
        }
        let leases = self.leases.slab.iter().map(|(_, lease)| lease.task);
        let of = |slot: &u32| self.methods.family_of(self.tasks[*slot].method) == family;
        leases.filter(of).collect()
    }

    /// What of a snapshot tells of rates.
    pub(super) fn rate_images(&self, now: Millis) -> Vec<Record> {
        let mut found = Vec::new();
        if crate::mutant::is(crate::mutant::Mutant::RatesNotInSnapshot) {
            return found;
        }
        for (method, limiter) in self.methods.limited() {
            let mut tell = |arrival, keys: &[KeyArrival]| {
                found.push(Record::Image(Image::Rate(RateImage {
                    method: Arc::clone(method),
                    arrival,
                    keys: keys.to_vec(),
                })));
            };
            if let Some(rate) = limiter.limits.method_rate()
                && !rate.is_rested(limiter.arrival, now)
            {
                tell(rate.parts(limiter.arrival), &[]);
            }
            if let Some(rate) = limiter.limits.key_rate() {
                let spent = limiter.spent(rate, now);
                spent
                    .chunks(KEYS_AT_ONCE)
                    .for_each(|keys| tell((0, 0), keys));
            }
        }
        found
    }

    /// Takes in what a snapshot tells of a rate.
    pub(super) fn load_rate(&mut self, image: &RateImage) {
        let Some(first) = self.methods.routes_of(&image.method).first() else {
            return;
        };
        let number = self.methods.get(*first).limiter;
        let Some(limiter) = self.methods.limiters.slab.get_mut(number) else {
            return;
        };
        if let Some(rate) = limiter.limits.method_rate() {
            limiter.arrival = rate.arrival(image.arrival);
        }
        let Some(rate) = limiter.limits.key_rate() else {
            return;
        };
        for (text, arrival) in &image.keys {
            let limiter = &mut self.methods.limiters.slab[number];
            let key = limiter.find_or_make(text.as_ref());
            limiter.keys[key].arrival = rate.arrival(*arrival);
            let tasks = &mut self.tasks;
            self.methods.look_at_key(tasks, number, key, self.time);
        }
    }

    /// After replay: sees what is held.
    pub(super) fn look_at_limits(&mut self) {
        let limiters = self.methods.limiters.slab.iter();
        let numbers: Vec<u32> = limiters.map(|(number, _)| number).collect();
        for number in numbers {
            self.methods.look_at(number, self.time);
        }
    }
}

/// What of a rate is used up when it becomes another one.
fn carried(rates: (Option<Rate>, Option<Rate>), arrival: Arrival, now: Millis) -> Arrival {
    match rates {
        (Some(old), Some(new)) => old.convert(arrival, new, now),
        _ => Arrival::default(),
    }
}

fn sound(limits: Limits) -> Limits {
    Limits {
        rate: limits.rate.map(Rate::sound),
        ..limits
    }
}
