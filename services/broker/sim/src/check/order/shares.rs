//! Queues whose tasks the same workers may start, at one latency class and priority: while both of two have something
//! to start, what they had differs from their weights by no more than a start of each, between any two moments.

use super::{Item, Known};
use std::collections::BTreeMap;

/// A class of workers, and a latency class and priority.
type Place = (usize, (u8, u8));

/// How far the first of a pair is ahead of its share, in units of one over both weights.
#[derive(Debug, Default)]
struct Ahead {
    now: i64,
    least: i64,
    most: i64,
}

/// Pairs of queues since both had something to start.
#[derive(Debug, Default)]
pub(super) struct Shares<'a> {
    pairs: BTreeMap<(Place, &'a str, &'a str), Ahead>,
}

impl Ahead {
    /// Takes in a start. Whether what both had was ever too far from their shares.
    fn step(&mut self, by: i64, weights: i64) -> bool {
        self.now += by;
        self.least = self.least.min(self.now);
        self.most = self.most.max(self.now);
        self.most - self.least > weights
    }
}

impl<'a> Shares<'a> {
    /// Counts anew: something changed that queues may begin anew with.
    pub(super) fn again(&mut self) {
        self.pairs.clear();
    }

    /// A task starts. What is wrong with it, if anything is.
    pub(super) fn begins(
        &mut self,
        known: &Known<'a>,
        class: usize,
        item: &Item<'a>,
    ) -> Option<String> {
        let rank = (item.rank.latency, item.group.1);
        let own: &'a str = &item.method.queue;
        if !known.has(class, rank, own) {
            return None;
        }
        let methods = &known.classes[class].methods;
        let weight = |queue: &str| {
            let of_queue = methods.iter().filter(|(method, _)| *method.queue == *queue);
            let most = of_queue.map(|(_, rank)| rank.weight).max();
            i64::try_from(most.unwrap_or(1).max(1)).unwrap_or(i64::MAX)
        };
        let mut wrong = None;
        let mut last = own;
        for (method, _) in methods {
            let other: &'a str = &method.queue;
            if other == last || other == own || !known.has(class, rank, other) {
                continue;
            }
            last = other;
            let place = ((class, rank), own.min(other), own.max(other));
            let ahead = self.pairs.entry(place).or_default();
            let (of_own, of_other) = (weight(own), weight(other));
            let by = if own < other { of_other } else { -of_other };
            if ahead.step(by, of_own + of_other) {
                wrong = Some(format!(
                    "{own} of weight {of_own} is {ahead:?} against {other} of weight {of_other}"
                ));
            }
        }
        wrong
    }

    /// A group has one task less that waits: pairs of its queue may be over.
    pub(super) fn leave(&mut self, known: &Known<'a>, item: &Item<'a>) {
        let rank = (item.rank.latency, item.group.1);
        let queue = &*item.method.queue;
        self.pairs.retain(|((class, place), first, second), _| {
            let of_queue = *place == rank && (*first == queue || *second == queue);
            !of_queue || known.has(*class, rank, queue)
        });
    }
}
