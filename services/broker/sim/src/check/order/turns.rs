//! Limit keys of a method take turns, by weight: while one has something that waits, no other one has more starts than
//! its share of both, and one more start of each, between any two moments. Without weights that is: between two starts
//! of a key each other that waits has one.

use super::{Group, Item};
use crate::history::Name;
use std::collections::BTreeMap;

/// A limit key; tasks without one take turns as one.
type Key<'a> = Option<&'a str>;

/// What is known of a key.
#[derive(Debug, Default)]
struct Turn<'a> {
    /// Tasks that wait for certain.
    waiting: u64,
    /// Tasks that are perhaps being cancelled: the first of the key may leave its place to the next.
    leaving: u64,
    /// Some of its tasks may end before they start.
    hurried: bool,
    /// Other keys that started since it has something that waits.
    passed: BTreeMap<Key<'a>, Ahead>,
}

/// How far another key is ahead of its share, in units of one over both weights.
#[derive(Debug, Default)]
struct Ahead {
    now: i64,
    least: i64,
}

/// Weights of the keys of a method.
#[derive(Debug, Default)]
struct Weights<'a> {
    /// Those in force; with `unknown` nobody can say.
    of: Option<&'a BTreeMap<Name, u32>>,
    unknown: bool,
    /// Words to the broker whose end was not told.
    invoked: u64,
}

/// Keys of each method and priority.
#[derive(Debug, Default)]
pub(super) struct Turns<'a> {
    keys: BTreeMap<(Group<'a>, Key<'a>), Turn<'a>>,
    weights: BTreeMap<&'a str, Weights<'a>>,
}

impl Weights<'_> {
    fn weight(&self, key: Key<'_>) -> i64 {
        let weight = self.of.zip(key).and_then(|(of, key)| of.get(key));
        weight.map_or(1, |weight| i64::from(*weight))
    }
}

impl<'a> Turns<'a> {
    fn of(&mut self, item: &Item<'a>) -> Option<&mut Turn<'a>> {
        let fair = item.rank.fair;
        fair.then(|| self.keys.entry((item.group, item.key)).or_default())
    }

    /// A task came, waiting or not.
    pub(super) fn comes(&mut self, item: &Item<'a>) {
        if let Some(turn) = self.of(item) {
            turn.hurried |= item.hurried;
        }
    }

    pub(super) fn waits(&mut self, item: &Item<'a>) {
        if let Some(turn) = self.of(item) {
            turn.waiting += 1;
        }
    }

    pub(super) fn waits_no_more(&mut self, item: &Item<'a>) {
        if let Some(turn) = self.of(item) {
            turn.waiting = turn.waiting.saturating_sub(1);
            if turn.waiting == 0 {
                turn.passed.clear();
            }
        }
    }

    /// A task of the key may be cancelled from now on, or no more.
    pub(super) fn unsure(&mut self, item: Option<Item<'a>>, begins: bool) {
        let Some(turn) = item.and_then(|item| self.of(&item)) else {
            return;
        };
        turn.passed.clear();
        turn.leaving = if begins {
            turn.leaving + 1
        } else {
            turn.leaving.saturating_sub(1)
        };
    }

    /// The broker is told other weights.
    pub(super) fn weights_invoked(&mut self, method: &'a str) {
        self.weights.entry(method).or_default().invoked += 1;
    }

    /// Other weights are in force: whoever waits counts anew.
    pub(super) fn weights_set(&mut self, method: &'a str, weights: &'a BTreeMap<Name, u32>) {
        let entry = self.weights.entry(method).or_default();
        (entry.of, entry.unknown) = (Some(weights), false);
        entry.invoked = entry.invoked.saturating_sub(1);
        let turns = self.keys.iter_mut();
        let of_method = turns.filter(|(((path, _), _), _)| *path == method);
        of_method.for_each(|(_, turn)| turn.passed.clear());
    }

    /// Nothing is known of what waits.
    pub(super) fn forget(&mut self) {
        for turn in self.keys.values_mut() {
            turn.waiting = 0;
            turn.passed.clear();
        }
    }

    /// The broker's process ended: weights that it was being told may be in force with the next one, or not.
    pub(super) fn broker_gone(&mut self) {
        self.forget();
        for weights in self.weights.values_mut().filter(|own| own.invoked > 0) {
            (weights.unknown, weights.invoked) = (true, 0);
        }
    }

    /// A task starts. A key that was passed over by it, if there is one.
    pub(super) fn begins(&mut self, item: &Item<'a>) -> Option<Key<'a>> {
        let none = Weights::default();
        let weights = self.weights.get(item.group.0).unwrap_or(&none);
        if !item.rank.fair || weights.unknown {
            return None;
        }
        let own = weights.weight(item.key);
        let mut over = None;
        let all = (item.group, None)..;
        let of_group = self
            .keys
            .range_mut(all)
            .take_while(|((g, _), _)| *g == item.group);
        for ((_, key), turn) in of_group {
            if *key == item.key {
                for (other, ahead) in &mut turn.passed {
                    ahead.now -= weights.weight(*other);
                    ahead.least = ahead.least.min(ahead.now);
                }
            } else if turn.waiting > 0 && turn.leaving == 0 && !turn.hurried {
                let weight = weights.weight(*key);
                let ahead = turn.passed.entry(item.key).or_default();
                ahead.now += weight;
                if ahead.now - ahead.least >= own + weight {
                    over = Some(*key);
                }
            }
        }
        over
    }
}
