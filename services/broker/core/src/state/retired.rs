//! Tasks that are done and have nothing special to tell: kept in half the memory of others, since there are
//! many of them and most are never looked at again.

use super::slab::NONE;
use super::task::{FAR, Stage, Task, Timer, UNPLACED, flag};
use crate::effect::TaskState;
use crate::ids::{Millis, Offset, TaskId};
use std::collections::BTreeMap;
use std::num::NonZeroU8;

/// A task that succeeded at its first attempt, without keys, parent or children, all of it in the log.
#[derive(Debug)]
pub(crate) struct Retired {
    id: TaskId,
    created_at: Millis,
    request_at: Offset,
    response_at: Offset,
    request_len: u32,
    envelope_len: u32,
    response_len: u32,
    /// Times after `created_at`, ms.
    expire_after: u32,
    started_after: u32,
    ended_after: u32,
    worker: u32,
    method: u16,
    /// One more than the priority, so that an empty entry needs no room of its own.
    priority: NonZeroU8,
}

impl Retired {
    /// The short form of a task. None: it has more to tell than that holds.
    pub(crate) fn of(task: &Task) -> Option<Self> {
        let Stage::Done {
            ended_at,
            response_at,
            response_len,
            worker,
        } = task.stage
        else {
            return None;
        };
        let after = |at: Millis| u32::try_from(at.checked_sub(task.created_at)?).ok();
        let plain = task.state == TaskState::Succeeded
            && task.rare.is_none()
            && task.attempt == 1
            && task.start_at == task.created_at
            && task.resident == NONE
            && task.waiter == NONE
            && !task.flag(flag::WATCHED);
        let placed = (task.request_at != UNPLACED || task.request_len + task.envelope_len == 0)
            && (response_at != UNPLACED || response_len == 0);
        if !plain || !placed {
            return None;
        }
        Some(Self {
            id: task.id,
            created_at: task.created_at,
            request_at: task.request_at,
            response_at,
            request_len: task.request_len,
            envelope_len: task.envelope_len,
            response_len,
            expire_after: after(task.expire_at)?,
            started_after: task.started_after,
            ended_after: after(ended_at)?,
            worker,
            method: u16::try_from(task.method).ok()?,
            priority: NonZeroU8::new(task.priority.checked_add(1)?)?,
        })
    }

    /// The long form.
    pub(crate) fn task(&self) -> Task {
        Task {
            id: self.id,
            created_at: self.created_at,
            start_at: self.created_at,
            expire_at: self.created_at + Millis::from(self.expire_after),
            timer: Timer::UNSET,
            request_at: self.request_at,
            stage: Stage::Done {
                ended_at: self.created_at + Millis::from(self.ended_after),
                response_at: self.response_at,
                response_len: self.response_len,
                worker: self.worker,
            },
            rare: None,
            request_len: self.request_len,
            envelope_len: self.envelope_len,
            method: u32::from(self.method),
            resident: NONE,
            waiter: NONE,
            started_after: self.started_after,
            attempt: 1,
            state: TaskState::Succeeded,
            priority: self.priority.get() - 1,
            flags: 0,
            second: false,
        }
    }
}

/// Ends of retention are kept by seconds of 1024 ms: a task may stay so much longer.
const BUCKET_BITS: u32 = 10;

/// Finished tasks by when they are to be forgotten. For retired ones it is the timer; others have one of their own, and
/// stand here to be found when the oldest are to be archived. Entries of tasks that changed meanwhile mean nothing.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    buckets: BTreeMap<u64, Vec<TaskId>>,
    len: usize,
}

impl Leaving {
    pub(crate) fn add(&mut self, at: Millis, id: TaskId) {
        self.buckets
            .entry((at.min(FAR) >> BUCKET_BITS) + 1)
            .or_default()
            .push(id);
        self.len += 1;
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes out those that would be forgotten first.
    pub(crate) fn take_first(&mut self, most: usize) -> Vec<TaskId> {
        let mut taken = Vec::with_capacity(most.min(self.len));
        while taken.len() < most
            && let Some(mut entry) = self.buckets.first_entry()
        {
            let ids = entry.get_mut();
            // From the front: files of tasks that were accepted together seldom overlap.
            let count = ids.len().min(most - taken.len());
            taken.extend(ids.drain(..count));
            if ids.is_empty() {
                entry.remove();
            }
        }
        self.len -= taken.len();
        taken
    }

    /// Some tasks whose time has come.
    pub(crate) fn take(&mut self, now: Millis, most: usize) -> Vec<TaskId> {
        let Some(mut entry) = self.buckets.first_entry() else {
            return Vec::new();
        };
        if *entry.key() << BUCKET_BITS > now {
            return Vec::new();
        }
        let ids = entry.get_mut();
        let taken = ids.split_off(ids.len().saturating_sub(most));
        if ids.is_empty() {
            entry.remove();
        }
        self.len -= taken.len();
        taken
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.buckets
            .first_key_value()
            .map(|(bucket, _)| bucket << BUCKET_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::slab::Slab;
    use super::super::table::tests::sample;
    use super::*;

    fn done() -> Task {
        let stage = Stage::Done {
            ended_at: 1_900,
            response_at: 70,
            response_len: 5,
            worker: 3,
        };
        Task {
            created_at: 1_000,
            start_at: 1_000,
            expire_at: 9_000,
            request_at: 50,
            stage,
            request_len: 7,
            envelope_len: 2,
            started_after: 400,
            attempt: 1,
            state: TaskState::Succeeded,
            priority: 9,
            ..sample(8)
        }
    }

    #[test]
    fn the_long_form_comes_back_as_it_was() {
        let retired = Retired::of(&done()).expect("a plain task");
        assert_eq!(format!("{:?}", retired.task()), format!("{:?}", done()));
    }

    #[test]
    fn a_retired_task_fits_one_cache_line() {
        assert_eq!(Slab::<Retired>::entry_size(), 64);
        assert_eq!(Slab::<Task>::entry_size(), 128);
    }

    #[test]
    fn a_task_with_more_to_tell_is_not_retired() {
        let mut keyed = done();
        keyed.rare_mut();
        let unplaced = Task {
            request_at: UNPLACED,
            ..done()
        };
        let awaited = Task {
            waiter: 1,
            ..done()
        };
        let late = Task {
            expire_at: 1_000 + (1 << 32),
            ..done()
        };
        let failed = Task {
            state: TaskState::Failed,
            ..done()
        };
        for task in [keyed, unplaced, awaited, late, failed, sample(1)] {
            assert!(Retired::of(&task).is_none(), "{task:?}");
        }
    }

    #[test]
    fn those_that_leave_first_are_taken_first() {
        let mut leaving = Leaving::default();
        for id in 1..=4 {
            leaving.add(9_000 - id * 2_000, TaskId(id));
        }
        assert_eq!(leaving.take_first(1), [TaskId(4)]);
        assert_eq!(leaving.take_first(2), [TaskId(3), TaskId(2)]);
        assert_eq!((leaving.len(), leaving.take_first(9).len()), (1, 1));
        assert_eq!((leaving.len(), leaving.next()), (0, None));
    }

    #[test]
    fn tasks_leave_when_their_second_is_over() {
        let mut leaving = Leaving::default();
        for id in 1..=5 {
            leaving.add(1_000, TaskId(id));
        }
        leaving.add(5_000, TaskId(6));
        assert_eq!(leaving.next(), Some(1_024));
        assert!(leaving.take(1_023, 10).is_empty());
        assert_eq!(leaving.take(1_024, 3).len(), 3);
        assert_eq!(leaving.take(1_024, 3).len(), 2);
        assert!(leaving.take(1_024, 3).is_empty());
        assert_eq!(leaving.next(), Some(5_120));
    }
}
