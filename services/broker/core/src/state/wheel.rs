//! A hierarchical timing wheel: one timer a task, set and cancelled in constant time, to the
//! millisecond. Tasks that are due leave by time, then by number.
//!
//! Level L has 64 buckets of 64^L ms. A timer lies on the level of the highest group of six bits in which
//! its time differs from `elapsed`, so buckets only ever move down as time comes nearer.

use super::slab::NONE;
use super::table::TaskTable;
use super::task::{FAR, Link, Timer};
use crate::ids::Millis;
use std::collections::VecDeque;

const BITS: u32 = 6;
const BUCKETS: u32 = 1 << BITS;
const LEVELS: u32 = 8;

/// The bucket of a timer whose time has come.
const DUE: u16 = (LEVELS * BUCKETS) as u16;

/// Timers moved down a level in one go: bounds the pause when a crowded bucket comes near.
const CASCADE_MAX: usize = 16_384;

/// Timers of all tasks.
#[derive(Debug)]
pub(crate) struct Wheel {
    elapsed: Millis,
    occupied: [u64; LEVELS as usize],
    heads: Vec<u32>,
    /// Slots whose time has come. An entry whose task was cancelled meanwhile is passed over.
    due: VecDeque<u32>,
    /// A bucket that is being moved down.
    cascading: Option<u16>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            elapsed: 0,
            occupied: [0; LEVELS as usize],
            heads: vec![NONE; (LEVELS * BUCKETS) as usize],
            due: VecDeque::new(),
            cascading: None,
        }
    }
}

impl Wheel {
    /// Starts at a time; to be called while no timer is set.
    pub(crate) fn start(&mut self, now: Millis) {
        debug_assert!(self.occupied == [0; LEVELS as usize], "an empty wheel");
        self.elapsed = now.min(FAR);
    }

    /// Sets the task's timer, in place of the one it had.
    pub(crate) fn set(&mut self, tasks: &mut TaskTable, slot: u32, at: Millis) {
        let at = at.min(FAR);
        let timer = tasks[slot].timer;
        if timer.bucket() < DUE && timer.at() == at {
            return;
        }
        self.cancel(tasks, slot);
        self.insert(tasks, slot, at);
    }

    fn insert(&mut self, tasks: &mut TaskTable, slot: u32, at: Millis) {
        if at <= self.elapsed {
            tasks[slot].timer = Timer::new(at, DUE);
            self.due.push_back(slot);
            return;
        }
        let level = (63 - (at ^ self.elapsed).leading_zeros()) / BITS;
        let place = (at >> (level * BITS)) as u32 % BUCKETS;
        let bucket = level * BUCKETS + place;
        let next = std::mem::replace(&mut self.heads[bucket as usize], slot);
        let mut timer = Timer::new(at, bucket as u16);
        timer.link.next = next;
        tasks[slot].timer = timer;
        if next == NONE {
            self.occupied[level as usize] |= 1 << place;
        } else {
            tasks[next].timer.link.prev = slot;
        }
    }

    /// Takes the task's timer out, if it has one.
    pub(crate) fn cancel(&mut self, tasks: &mut TaskTable, slot: u32) {
        let timer = tasks[slot].timer;
        let bucket = timer.bucket();
        if bucket == Timer::OFF {
            return;
        }
        tasks[slot].timer = Timer::UNSET;
        if bucket == DUE {
            return;
        }
        let Link { prev, next } = timer.link;
        if next != NONE {
            tasks[next].timer.link.prev = prev;
        }
        if prev != NONE {
            tasks[prev].timer.link.next = next;
            return;
        }
        self.heads[usize::from(bucket)] = next;
        if next == NONE {
            self.occupied[usize::from(bucket / 64)] &= !(1 << (bucket % 64));
        }
    }

    /// The next task whose time has come, its timer taken out.
    pub(crate) fn pop(&mut self, tasks: &mut TaskTable, now: Millis) -> Option<u32> {
        // Timers that are due leave when all of their time are known, so that numbers order them.
        if let Some(bucket) = self.cascading
            && !self.cascade(tasks, bucket)
        {
            return None;
        }
        loop {
            while let Some(slot) = self.due.pop_front() {
                if tasks
                    .get(slot)
                    .is_some_and(|task| task.timer.bucket() == DUE)
                {
                    tasks[slot].timer = Timer::UNSET;
                    return Some(slot);
                }
            }
            if !self.turn(tasks, now.min(FAR)) {
                return None;
            }
        }
    }

    /// Moves time on to the next bucket, or as far as `now`. Whether it is worth looking for due tasks again.
    fn turn(&mut self, tasks: &mut TaskTable, now: Millis) -> bool {
        match self.next_bucket() {
            Some((bucket, at)) if at <= now => {
                self.elapsed = at;
                if bucket < BUCKETS as u16 {
                    self.expire(tasks, bucket);
                    true
                } else {
                    self.cascade(tasks, bucket)
                }
            }
            _ => {
                self.elapsed = self.elapsed.max(now);
                false
            }
        }
    }

    /// The first bucket that holds something, and when it begins.
    fn next_bucket(&self) -> Option<(u16, Millis)> {
        let level = (0..LEVELS).find(|level| self.occupied[*level as usize] != 0)?;
        let place = self.occupied[level as usize].trailing_zeros();
        let above = self.elapsed >> ((level + 1) * BITS) << ((level + 1) * BITS);
        let at = above | u64::from(place) << (level * BITS);
        Some(((level * BUCKETS + place) as u16, at))
    }

    /// All of a bucket of one millisecond is due.
    fn expire(&mut self, tasks: &mut TaskTable, bucket: u16) {
        let mut slots = Vec::new();
        let mut slot = self.heads[usize::from(bucket)];
        while slot != NONE {
            slots.push(slot);
            slot = tasks[slot].timer.link.next;
        }
        self.heads[usize::from(bucket)] = NONE;
        self.occupied[0] &= !(1 << bucket);
        for slot in &slots {
            tasks[*slot].timer = Timer::new(self.elapsed, DUE);
        }
        slots.sort_unstable_by_key(|slot| tasks[*slot].id);
        self.due.extend(slots);
    }

    /// Moves timers of a bucket to lower levels. False: there is more to move, later.
    fn cascade(&mut self, tasks: &mut TaskTable, bucket: u16) -> bool {
        for _ in 0..CASCADE_MAX {
            let slot = self.heads[usize::from(bucket)];
            if slot == NONE {
                break;
            }
            let at = tasks[slot].timer.at();
            self.cancel(tasks, slot);
            self.insert(tasks, slot, at);
        }
        let done = self.heads[usize::from(bucket)] == NONE;
        self.cascading = (!done).then_some(bucket);
        if done {
            let slots = &mut self.due.make_contiguous();
            slots.sort_by_key(|slot| tasks.get(*slot).map(|task| (task.timer.at(), task.id)));
        }
        done
    }

    /// When [`Self::pop`] should be called next: exact for the coming 64 ms, else no later than that.
    pub(crate) fn next(&self) -> Option<Millis> {
        if !self.due.is_empty() || self.cascading.is_some() {
            return Some(self.elapsed);
        }
        self.next_bucket().map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::sample;
    use super::*;
    use proptest::prelude::*;

    fn table(count: u64) -> TaskTable {
        let mut tasks = TaskTable::default();
        for id in 1..=count {
            tasks.insert(sample(id)).expect("new");
        }
        tasks
    }

    fn drain(wheel: &mut Wheel, tasks: &mut TaskTable, until: Millis) -> Vec<(Millis, u32)> {
        let mut fired = Vec::new();
        while let Some(at) = wheel.next().filter(|at| *at <= until) {
            while let Some(slot) = wheel.pop(tasks, at) {
                fired.push((at, slot));
            }
        }
        fired
    }

    #[test]
    fn a_crowded_bucket_moves_down_in_bounded_pieces() {
        let count = CASCADE_MAX as u64 * 2 + 10;
        let mut tasks = table(count);
        let mut wheel = Wheel::default();
        wheel.start(1_000_000);
        for slot in 0..count as u32 {
            wheel.set(&mut tasks, slot, 9_000_000);
        }
        let mut calls = 0;
        while wheel.pop(&mut tasks, 8_999_999).is_none() && wheel.next() < Some(8_999_999) {
            calls += 1;
        }
        assert!(calls > 2, "{calls}");
        let fired = drain(&mut wheel, &mut tasks, 9_000_000);
        assert_eq!(fired.len() as u64, count);
        assert!(fired.iter().all(|(at, _)| *at == 9_000_000));
        assert!(
            fired.is_sorted_by_key(|(_, slot)| *slot),
            "by number within a millisecond"
        );
    }

    proptest! {
        #[test]
        fn timers_fire_at_their_time_and_in_order(
            start in 0..2_000_000_000_000u64,
            ops in prop::collection::vec((0u32..40, 0u64..300_000, any::<bool>()), 1..200),
        ) {
            let mut tasks = table(40);
            let mut wheel = Wheel::default();
            wheel.start(start);
            let mut wanted = std::collections::BTreeMap::new();
            for (slot, delay, keep) in ops {
                if keep {
                    wheel.set(&mut tasks, slot, start + delay);
                    wanted.insert(slot, start + delay);
                } else {
                    wheel.cancel(&mut tasks, slot);
                    wanted.remove(&slot);
                }
            }
            let mut expected: Vec<(Millis, u32)> =
                wanted.iter().map(|(slot, at)| (*at, *slot)).collect();
            expected.sort_unstable();
            let fired = drain(&mut wheel, &mut tasks, u64::MAX);
            let late: Vec<_> = fired.iter().filter(|(at, _)| *at > start).copied().collect();
            let expected_late: Vec<_> =
                expected.iter().filter(|(at, _)| *at > start).copied().collect();
            prop_assert_eq!(late, expected_late);
            prop_assert_eq!(fired.len(), expected.len());
            prop_assert_eq!(wheel.next(), None);
        }
    }
}
