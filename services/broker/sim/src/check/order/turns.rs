//! Limit keys of a method take turns: between two starts of one, each other that waits has one.

use super::{Group, Item};
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
    /// Starts of other keys since it has something that waits, and since its own last one.
    passed: BTreeMap<Key<'a>, u64>,
}

/// Keys of each method and priority.
#[derive(Debug, Default)]
pub(super) struct Turns<'a> {
    keys: BTreeMap<(Group<'a>, Key<'a>), Turn<'a>>,
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

    /// Nothing is known of what waits.
    pub(super) fn forget(&mut self) {
        for turn in self.keys.values_mut() {
            turn.waiting = 0;
            turn.passed.clear();
        }
    }

    /// A task starts. A key that was passed over by it, if there is one.
    pub(super) fn begins(&mut self, item: &Item<'a>) -> Option<Key<'a>> {
        if !item.rank.fair {
            return None;
        }
        let mut over = None;
        let all = (item.group, None)..;
        let of_group = self
            .keys
            .range_mut(all)
            .take_while(|((g, _), _)| *g == item.group);
        for ((_, key), turn) in of_group {
            if *key == item.key {
                turn.passed.clear();
            } else if turn.waiting > 0 && turn.leaving == 0 && !turn.hurried {
                let passed = turn.passed.entry(item.key).or_default();
                *passed += 1;
                if *passed > 1 {
                    over = Some(*key);
                }
            }
        }
        over
    }
}
