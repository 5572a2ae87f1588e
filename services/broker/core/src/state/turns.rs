//! Turns of keys by weight: of the starts of one ready list each key that has something to start gets as many as its
//! weight says (start-time fair queueing). Only methods of which some key has a weight have any of this.
//!
//! Each key has a tag: the rounds of starts that it has had. The first task of each key stands in the ready list, in
//! the order of the tags, so whoever dispatches takes the first as ever. A key that has nothing to start keeps its tag
//! until the others are as far: it neither saves anything up nor gets a turn by coming back. It ends with the process.

use super::slab::NONE;
use crate::mutant::{self, Mutant};
use crate::tag::Tag;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// A start counts as so many, so that a key of weight 1 may begin in the middle of a round of others, as soon as there
/// is a start of weight 1000: what begins at another's tag is rounded up to a millionth of a start.
const FINE: u64 = 1 << 20;

/// The keys of one ready list. While two of them both have something to start, what they had differs by less than a
/// start of each from their shares: a key's tag is never before `now`, at most a start after it, and after it when
/// the key comes; equal tags go by number.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// The tag of the key that was served last, as it was then.
    now: Tag,
    /// Keys that have come since.
    came: u64,
    /// Keys of which a task stands in the ready list, with that task.
    order: BTreeMap<(Tag, u32), u32>,
    /// Keys of which none stands there.
    rest: BTreeSet<(Tag, u32)>,
    /// One more of these: mostly the next task of a key stands in the list as soon as one began.
    gone: Option<u32>,
    /// All of them.
    tags: BTreeMap<u32, Tag>,
}

impl Turns {
    /// Where a key begins that comes now: after those that have waited at the tag served last, and those that came
    /// before it; but no more than a start later.
    fn fresh(&self, weight: u32) -> Tag {
        if mutant::is(Mutant::TurnsSavedUp) {
            return Tag::default().of_weight(weight);
        }
        let later = self.came.saturating_mul(u64::from(weight)).min(FINE - 2);
        self.now.of_weight(weight).after(1 + later)
    }

    /// A task of a key comes to stand in the list. Before which other one, or NONE, and whether the key is remembered
    /// from now on.
    pub(crate) fn come(&mut self, key: u32, weight: u32, slot: u32) -> (u32, bool) {
        let known = self.tags.get(&key).copied();
        if let Some(tag) = known
            && self.gone.take_if(|gone| *gone == key).is_none()
        {
            self.rest.remove(&(tag, key));
        }
        let tag = known.filter(|tag| *tag > self.now).unwrap_or_else(|| {
            let fresh = self.fresh(weight);
            self.came += 1;
            fresh
        });
        self.tags.insert(key, tag);
        self.order.insert((tag, key), slot);
        (self.after(tag, key), known.is_none())
    }

    /// The task of the key leaves the list; `began`: it begins, which is the key's turn.
    pub(crate) fn go(&mut self, key: u32, began: bool) {
        self.lay_to_rest();
        let Some(tag) = self.tags.get_mut(&key) else {
            return;
        };
        self.order.remove(&(*tag, key));
        if began {
            if *tag > self.now {
                (self.now, self.came) = (*tag, 0);
            }
            *tag = tag.after(FINE);
        }
        self.gone = Some(key);
    }

    fn lay_to_rest(&mut self) {
        let tag = |key| self.tags.get(&key).map(|tag| (*tag, key));
        if let Some(resting) = self.gone.take().and_then(tag) {
            self.rest.insert(resting);
        }
    }

    /// Forgets a key that has nothing to start and is no further than the others, or has nobody to share with.
    pub(crate) fn forget(&mut self) -> Option<u32> {
        self.lay_to_rest();
        let &(tag, key) = self.rest.first()?;
        let ahead = tag > self.now && !mutant::is(Mutant::TurnsForgotten);
        if ahead && !self.order.is_empty() {
            return None;
        }
        self.rest.remove(&(tag, key));
        self.tags.remove(&key);
        Some(key)
    }

    /// A key has another weight: what it is ahead becomes as many starts of the new one. Its task, if one stands in the
    /// list, and before which other one it stands now, or NONE.
    pub(crate) fn reweigh(&mut self, key: u32, weight: u32) -> Option<(u32, u32)> {
        self.lay_to_rest();
        let old = self.tags.get(&key).copied()?;
        let ahead = self.now.of_weight(old.weight).starts_until(old);
        // What was rounded up must not put it further ahead than one start.
        let tag = self.now.of_weight(weight).after(ahead.max(2) - 1);
        self.tags.insert(key, tag);
        let Some(slot) = self.order.remove(&(old, key)) else {
            self.rest.remove(&(old, key));
            self.rest.insert((tag, key));
            return None;
        };
        self.order.insert((tag, key), slot);
        Some((slot, self.after(tag, key)))
    }

    /// All keys that are remembered.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u32> + '_ {
        self.tags.keys().copied()
    }

    /// The task that stands after that of a key, or NONE.
    fn after(&self, tag: Tag, key: u32) -> u32 {
        let after = (Bound::Excluded((tag, key)), Bound::Unbounded);
        self.order
            .range(after)
            .next()
            .map_or(NONE, |(_, slot)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves the first key so many times, all of them with work without end.
    fn serve(turns: &mut Turns, weights: &[u32], count: usize) -> Vec<u32> {
        let serve = |_| {
            let (&(_, key), _) = turns.order.first_key_value().expect("they have work");
            turns.go(key, true);
            turns.come(key, weights[key as usize], key);
            while turns.forget().is_some() {}
            key
        };
        (0..count).map(serve).collect()
    }

    fn turns(weights: &[u32]) -> Turns {
        let mut turns = Turns::default();
        for (key, weight) in (0..).zip(weights) {
            turns.come(key, *weight, key);
        }
        turns
    }

    fn count(order: &[u32], key: u32) -> usize {
        order.iter().filter(|other| **other == key).count()
    }

    #[test]
    fn keys_are_served_by_their_weights() {
        let weights = [1, 3, 7];
        let order = serve(&mut turns(&weights), &weights, 11_000);
        for round in order.chunks(11) {
            assert_eq!([0, 1, 2].map(|key| count(round, key)), [1, 3, 7]);
        }
    }

    #[test]
    fn a_task_stands_before_those_that_are_later() {
        let mut turns = turns(&[1, 1]);
        assert_eq!(turns.come(2, 1, 20), (NONE, true));
        turns.go(0, true);
        assert_eq!(turns.come(0, 1, 10), (NONE, false));
        assert_eq!(turns.come(3, 1000, 30), (1, true));
    }

    #[test]
    fn a_key_that_comes_again_and_again_has_no_more_than_its_share() {
        let mut turns = turns(&[1000]);
        let mut had = 0;
        for _ in 0..10_000 {
            // One task at a time, the next one as soon as it began.
            if !turns.order.values().any(|slot| *slot == 1) {
                turns.come(1, 1, 1);
            }
            let (&(_, key), _) = turns.order.first_key_value().expect("they have work");
            turns.go(key, true);
            if key == 0 {
                turns.come(0, 1000, 0);
            }
            while turns.forget().is_some() {}
            had += u32::from(key == 1);
        }
        assert!((9..=11).contains(&had), "{had} of 10,000");
    }

    #[test]
    fn who_had_nothing_has_saved_nothing_up_and_is_forgotten() {
        let weights = [1, 1, 1];
        let mut turns = turns(&weights[..2]);
        turns.come(2, 1, 2);
        turns.go(2, true);
        serve(&mut turns, &weights, 1_000);
        assert_eq!(turns.keys().collect::<Vec<_>>(), [0, 1]);
        turns.come(2, 1, 2);
        let mut served = serve(&mut turns, &weights, 9);
        served.sort_unstable();
        assert_eq!(served, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn nobody_is_remembered_where_nobody_waits() {
        let mut turns = turns(&[1, 5]);
        turns.go(0, true);
        assert_eq!(turns.forget(), None, "the other one still waits");
        turns.go(1, true);
        let mut forgotten: Vec<u32> = std::iter::from_fn(|| turns.forget()).collect();
        forgotten.sort_unstable();
        assert_eq!(forgotten, [0, 1]);
        assert_eq!(turns.keys().count(), 0);
    }

    #[test]
    fn another_weight_holds_at_once() {
        let mut turns = turns(&[1, 1000]);
        turns.go(0, true);
        turns.come(0, 1, 0);
        // Of weight 1 it would wait for a thousand starts of the other.
        assert_eq!(turns.reweigh(0, 1000), Some((0, NONE)));
        let order = serve(&mut turns, &[1000, 1000], 10);
        assert!((4..=6).contains(&count(&order, 0)), "{order:?}");
        turns.reweigh(0, 1);
        let order = serve(&mut turns, &[1, 1000], 1_001);
        assert!(count(&order, 0) <= 2, "{}", count(&order, 0));
    }
}
