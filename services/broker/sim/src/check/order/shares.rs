//! Queues whose tasks the same workers may start, at one latency class and priority: while both of two have something
//! to start, what they had differs from their weights by less than a start of each.

use super::{Item, Known};
use std::collections::BTreeMap;

/// A class of workers, and a latency class and priority.
type Place = (usize, (u8, u8));

/// Starts of pairs of queues since both had something to start.
#[derive(Debug, Default)]
pub(super) struct Shares<'a> {
    pairs: BTreeMap<(Place, &'a str, &'a str), (u64, u64)>,
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
            of_queue.map(|(_, rank)| rank.weight).max().unwrap_or(1)
        };
        let mut wrong = None;
        let mut last = own;
        for (method, _) in methods {
            let other: &'a str = &method.queue;
            if other == last || other == own || !known.has(class, rank, other) {
                continue;
            }
            last = other;
            let (first, second) = (own.min(other), own.max(other));
            let pair = self.pairs.entry(((class, rank), first, second));
            let (a, b) = pair.or_default();
            *(if first == own { &mut *a } else { &mut *b }) += 1;
            let (a_weight, b_weight) = (weight(first).max(1), weight(second).max(1));
            if (*a * b_weight).abs_diff(*b * a_weight) > a_weight + b_weight {
                wrong = Some(format!(
                    "{first} of weight {a_weight} had {a} starts, {second} of weight {b_weight} {b}"
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
