//! New tasks: from what was accepted to what is kept.

use super::State;
use super::slab::NONE;
use super::task::{Birth, FAR, Link, Stage, Task, Timer, UNPLACED};
use crate::effect::TaskState;
use crate::ids::{Millis, Token};
use crate::record::NewTask;
use std::sync::Arc;

/// Numbers stay below this, so that counting on from any log never overflows.
pub(super) const TASKS_MAX: u64 = 1 << 62;

impl State {
    /// Takes in a task that was accepted at a time.
    pub(super) fn accept(&mut self, new: &NewTask, method: u32, time: Millis) {
        let mut task = new_task(new, method, time);
        task.state = if new.start_at > time {
            TaskState::Scheduled
        } else {
            TaskState::Ready
        };
        if let Some(rare) = task.rare.as_mut() {
            rare.key_until = time
                .saturating_add(self.methods.policy(method).idempotency_window_ms)
                .min(FAR);
        }
        self.blobs
            .take_request(&mut task, &new.request, &new.envelope);
        self.next_task = self
            .next_task
            .max(new.id.0.saturating_add(1))
            .min(TASKS_MAX);
        let keyed = task.rare.is_some();
        let Some(slot) = self.tasks.insert(task) else {
            return;
        };
        self.methods.methods[method as usize].tally.submitted += 1;
        if keyed {
            self.dedup.insert(&self.tasks, slot);
            self.families.adopt(&mut self.tasks, slot);
            if self.indexed {
                self.lines
                    .join(&mut self.tasks, &mut self.methods, slot, self.time);
            }
        }
        self.enter(slot);
    }
}

/// A task that was accepted, its blobs not yet taken.
pub(super) fn new_task(new: &NewTask, method: u32, time: Millis) -> Task {
    let mut task = Task {
        id: new.id,
        created_at: time,
        start_at: new.start_at.min(FAR),
        expire_at: new.expire_at.min(FAR),
        timer: Timer::UNSET,
        request_at: UNPLACED,
        stage: Stage::Open {
            token: Token(0),
            lease: NONE,
            link: Link::FREE,
        },
        rare: None,
        request_len: 0,
        envelope_len: 0,
        method,
        resident: NONE,
        waiter: NONE,
        started_after: NONE,
        attempt: 0,
        state: TaskState::Ready,
        priority: new.priority,
        flags: 0,
    };
    let keys = [&new.idempotency_key, &new.ordering_key, &new.limit_key];
    if keys.into_iter().any(Option::is_some) {
        let rare = task.rare_mut();
        rare.idempotency_key.clone_from(&new.idempotency_key);
        rare.ordering_key.clone_from(&new.ordering_key);
        rare.limit_key.clone_from(&new.limit_key);
    }
    if new.idempotency_key.is_some() || new.parent.is_some() {
        task.rare_mut().digest = new.digest;
    }
    if let Some((parent, key)) = &new.parent {
        task.more_mut().parent = Some(Box::new(Birth {
            parent: *parent,
            key: key.clone(),
            sibling: Link::FREE,
            flags: (!new.flags.is_empty()).then(|| Arc::from(&new.flags[..])),
            asked: Token(0),
            awaited: Token(0),
        }));
    }
    task
}
