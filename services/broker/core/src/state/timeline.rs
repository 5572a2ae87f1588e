//! What happened to a task, for people. Most tasks are submitted, started and done: that is told
//! from the task itself, and only a task with more to tell has a history.

use super::names::Names;
use super::task::Task;
use crate::effect::{TaskState, TimelineEvent};
use crate::ids::Millis;
use std::sync::Arc;

/// Events kept from the beginning.
const FIRST: usize = 4;

/// Events kept in all.
const ALL: usize = FIRST + 12;

/// Events of a task, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<TimelineEvent>,
}

impl History {
    fn push(&mut self, event: TimelineEvent) {
        if self.events.len() >= ALL {
            self.events.remove(FIRST);
        }
        self.events.push(event);
    }
}

/// What is known of a task without a history: submitted, perhaps started.
fn plain_start(task: &Task, worker: Option<&Arc<str>>) -> Vec<TimelineEvent> {
    let delayed = task.start_at > task.created_at;
    let mut events = vec![TimelineEvent {
        at: task.created_at,
        state: if delayed {
            TaskState::Scheduled
        } else {
            TaskState::Ready
        },
        attempt: 0,
        cause: "SUBMITTED",
        worker: None,
    }];
    if let Some(at) = task.started_at() {
        events.push(TimelineEvent {
            at,
            state: TaskState::Running,
            attempt: u32::from(task.attempt),
            cause: "STARTED",
            worker: worker.cloned(),
        });
    }
    events
}

/// The name of the worker that a task without a history ran on.
pub(crate) fn last_worker<'a>(
    task: &Task,
    leases: &super::leases::Leases,
    names: &'a Names,
) -> Option<&'a Arc<str>> {
    let name = match task.stage {
        super::task::Stage::Done { worker, .. } => worker,
        super::task::Stage::Open { lease, .. } => leases.slab.get(lease)?.name,
    };
    names.get(name)
}

/// Everything that is known.
pub(crate) fn events(task: &Task, worker: Option<&Arc<str>>) -> Vec<TimelineEvent> {
    if let Some(history) = task.more().and_then(|more| more.history.as_ref()) {
        return history.events.clone();
    }
    let mut events = plain_start(task, worker);
    if task.state == TaskState::Succeeded {
        events.push(TimelineEvent {
            at: task.ended_at(),
            state: TaskState::Succeeded,
            attempt: u32::from(task.attempt),
            cause: "COMPLETED",
            worker: worker.cloned(),
        });
    }
    events
}

/// Adds an event that a plain life does not have. To be called before the task changes otherwise.
pub(crate) fn note(task: &mut Task, worker: Option<&Arc<str>>, event: TimelineEvent) {
    let events = match task.more() {
        Some(more) if more.history.is_some() => Vec::new(),
        _ => plain_start(task, worker),
    };
    let more = task.more_mut();
    more.history
        .get_or_insert_with(|| Box::new(History { events }))
        .push(event);
}

/// Adds an event of a plain life, where the task has a history already.
pub(crate) fn note_plain(task: &mut Task, event: impl FnOnce() -> TimelineEvent) {
    let history = task.rare.as_mut().and_then(|rare| rare.more.as_mut());
    if let Some(history) = history.and_then(|more| more.history.as_mut()) {
        history.push(event());
    }
}

/// Takes events read from a snapshot; only those that the task itself does not tell are kept.
pub(crate) fn restore(task: &mut Task, worker: Option<&Arc<str>>, read: &[TimelineEvent]) {
    let started = read.iter().rev().find(|event| event.cause == "STARTED");
    task.started_after = started.map_or(super::slab::NONE, |event| after(task, event.at));
    if events(task, worker) != read {
        let events = read.iter().take(ALL).cloned().collect();
        task.more_mut().history = Some(Box::new(History { events }));
    }
}

/// From acceptance to a time, cut so that it is never mistaken for "never".
pub(crate) fn after(task: &Task, at: Millis) -> u32 {
    u32::try_from(at.saturating_sub(task.created_at))
        .unwrap_or(u32::MAX)
        .min(u32::MAX - 1)
}
