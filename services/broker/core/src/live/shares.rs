//! Shares of queues: of the starts of one rank in a class of workers each queue that has something to start gets as
//! many as its weight says, whatever waits in the others (start-time fair queueing).
//!
//! Each queue has a tag: how many rounds of starts it has had, where a round is as many as its weight. The queue with
//! the least tag is first. Tags are fractions with the weight below, so nothing is ever rounded off: as long as two
//! queues both have something to start, what they had differs by less than a start of each. A queue that had nothing
//! begins where the others are: it has saved nothing up. It ends with the process.

use crate::mutant::{self, Mutant};
use crate::state::methods::QUEUE_WEIGHT_MAX;
use crate::tag::Tag;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One queue, as far as it is served here.
#[derive(Debug, Default)]
struct Entry {
    tag: Tag,
    /// Its methods (by index) that may have ready tasks, in turn.
    methods: VecDeque<u32>,
}

/// The queues of one rank.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// The tag of the queue that was served last, as it was then: where one that comes begins.
    now: Tag,
    queues: BTreeMap<u32, Entry>,
    /// Those that have methods.
    waiting: BTreeSet<(Tag, u32)>,
}

impl Shares {
    /// A method may have ready tasks.
    pub(crate) fn push(&mut self, queue: u32, weight: u32, method: u32) {
        let entry = self.queues.entry(queue).or_default();
        if entry.methods.is_empty() {
            let weight = weight.clamp(1, QUEUE_WEIGHT_MAX);
            let saved = mutant::is(Mutant::SharesSavedUp);
            let from = if saved { Tag::default() } else { self.now };
            entry.tag = entry.tag.max(from).of_weight(weight);
            self.waiting.insert((entry.tag, queue));
        }
        entry.methods.push_back(method);
    }

    /// The queue that is first, and its first method.
    pub(crate) fn first(&self) -> Option<(u32, u32)> {
        let (_, queue) = self.waiting.first()?;
        let method = self.queues.get(queue)?.methods.front()?;
        Some((*queue, *method))
    }

    /// Takes out the first method of the first queue.
    pub(crate) fn pop(&mut self) {
        let Some(&(tag, queue)) = self.waiting.first() else {
            return;
        };
        let entry = self.queues.entry(queue).or_default();
        entry.methods.pop_front();
        if entry.methods.is_empty() {
            self.waiting.remove(&(tag, queue));
        }
    }

    /// How many starts in a row the first queue may have: as many as leave it no further ahead of the next one than
    /// its share.
    pub(crate) fn most(&self) -> u64 {
        let mut waiting = self.waiting.iter();
        match (waiting.next(), waiting.next()) {
            (Some((first, _)), Some((next, _))) => first.starts_until(*next).max(1),
            _ => u64::MAX,
        }
    }

    /// Whether only one method is there.
    pub(crate) fn is_single(&self, queue: u32) -> bool {
        let entry = self.queues.get(&queue);
        entry.is_some_and(|entry| entry.methods.len() == 1)
    }

    /// Ends the turn of the first method of a queue.
    pub(crate) fn rotate(&mut self, queue: u32) {
        if let Some(entry) = self.queues.get_mut(&queue)
            && !entry.methods.is_empty()
        {
            entry.methods.rotate_left(1);
        }
    }

    /// So many tasks of a queue began. One that is alone shares with nobody, and is not counted.
    pub(crate) fn charge(&mut self, queue: u32, weight: u32, starts: u64) {
        if starts == 0 || self.waiting.len() < 2 || mutant::is(Mutant::SharesNotCharged) {
            return;
        }
        let Some(entry) = self.queues.get_mut(&queue) else {
            return;
        };
        let waits = self.waiting.remove(&(entry.tag, queue));
        self.now = self.now.max(entry.tag.after(starts - 1));
        let weight = weight.clamp(1, QUEUE_WEIGHT_MAX);
        entry.tag = entry.tag.after(starts).of_weight(weight);
        if waits {
            self.waiting.insert((entry.tag, queue));
        }
    }

    /// All methods.
    pub(crate) fn methods(&self) -> impl Iterator<Item = u32> + '_ {
        let entries = self.queues.values();
        entries.flat_map(|entry| entry.methods.iter().copied())
    }

    /// What queues have had, without what waits.
    pub(crate) fn left(mut self) -> Self {
        self.waiting.clear();
        for entry in self.queues.values_mut() {
            entry.methods.clear();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The queues that are served, in order, all of them with work without end.
    fn order(weights: &[u32], count: usize) -> Vec<u32> {
        let mut shares = Shares::default();
        for (queue, weight) in (0..).zip(weights) {
            shares.push(queue, *weight, queue);
        }
        let mut order = Vec::new();
        while order.len() < count {
            let (queue, _) = shares.first().expect("they have work");
            let most = shares.most();
            order.extend(std::iter::repeat_n(queue, most as usize));
            shares.charge(queue, weights[queue as usize], most);
        }
        order
    }

    #[test]
    fn queues_are_served_by_their_weights() {
        assert_eq!(order(&[1, 1], 6), [0, 1, 0, 1, 0, 1]);
        let count = |order: &[u32], queue| order.iter().filter(|other| **other == queue).count();
        let order = order(&[1, 3, 7], 1_100);
        for at in 0..100 {
            let round = &order[at * 11..(at + 1) * 11];
            assert_eq!([0, 1, 2].map(|queue| count(round, queue)), [1, 3, 7]);
        }
    }

    #[test]
    fn a_queue_that_had_nothing_has_saved_nothing_up() {
        let mut shares = Shares::default();
        shares.push(0, 1, 0);
        shares.push(1, 1, 1);
        let serve = |shares: &mut Shares| {
            let (queue, _) = shares.first().expect("they have work");
            shares.charge(queue, 1, 1);
            queue
        };
        assert_eq!((0..1_000).map(|_| serve(&mut shares)).sum::<u32>(), 500);
        shares.push(2, 1, 2);
        let mut served: Vec<u32> = (0..9).map(|_| serve(&mut shares)).collect();
        served.sort_unstable();
        assert_eq!(served, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    }
}
