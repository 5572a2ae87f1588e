//! The state as readers see it.

use crate::effect::{HeldBy, QueueView, TaskState, TaskView};
use crate::ids::TaskId;
use crate::partition::Partition;
use crate::state::methods::Queue;
use crate::state::slab::NONE;
use crate::state::table::Found;
use crate::state::task::{Task, flag};
use crate::state::timeline;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// States in the order in which they are counted.
const STATES: [TaskState; 10] = [
    TaskState::Scheduled,
    TaskState::Ready,
    TaskState::Running,
    TaskState::Backoff,
    TaskState::Suspended,
    TaskState::Parked,
    TaskState::Succeeded,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Expired,
];

impl Partition {
    /// The state to show: PARKED in a paused queue, RUNNING only when the worker received it, SUSPENDED
    /// while a flow waits.
    fn shown(&self, task: &Task) -> TaskState {
        let parked = || {
            if self.state.methods.is_parked(task.method) {
                TaskState::Parked
            } else {
                TaskState::Ready
            }
        };
        match task.state {
            TaskState::Ready => parked(),
            TaskState::Running => match self.state.leases.slab.get(task.lease()) {
                Some(lease) if lease.is_waiting() => TaskState::Suspended,
                Some(lease) if lease.worker != NONE => {
                    let accepted = self.live.workers.slab[lease.worker].accepted;
                    if lease.sequence <= accepted {
                        TaskState::Running
                    } else {
                        parked()
                    }
                }
                _ => TaskState::Running,
            },
            state => state,
        }
    }

    /// A task as a reader sees it.
    pub(crate) fn view(&self, task: &Task) -> TaskView {
        let state = &self.state;
        let policy = state.methods.policy(task.method);
        let lease = state.leases.slab.get(task.lease());
        let ran = timeline::last_worker(task, &state.leases, &state.names);
        TaskView {
            id: task.id,
            method: Arc::clone(&state.methods.get(task.method).path),
            queue: Arc::clone(&state.methods.queue_of(task.method).name),
            state: self.shown(task),
            priority: task.priority,
            attempt: u32::from(task.attempt),
            max_attempts: policy.max_attempts,
            worker: lease.and_then(|lease| state.names.get(lease.name)).cloned(),
            idempotency_key: task.idempotency_key().cloned(),
            ordering_key: task.ordering_key().cloned(),
            created_at: task.created_at,
            start_at: task.start_at,
            expire_at: task.expire_at,
            ended_at: task.ended_at(),
            parent: task.birth().map(|birth| (birth.parent, birth.key.clone())),
            child_count: task.family().map_or(0, |family| family.count),
            dead_letter: task.flag(flag::DEAD_LETTER),
            failure: state.failure(task),
            request: state.blobs.request(task),
            response: state.blobs.response(task),
            envelope: state.blobs.envelope(task),
            progress: task
                .more()
                .and_then(|more| more.progress.as_deref())
                .map(|(fraction, message)| (*fraction, Arc::clone(message))),
            events: timeline::events(task, ran),
        }
    }

    /// A task wherever it is, as a reader sees it.
    pub(crate) fn view_found(&self, found: &Found) -> TaskView {
        match found {
            Found::Slot(slot) => self.view(&self.state.tasks[*slot]),
            Found::Retired(task) => self.view(task),
        }
    }

    pub(crate) fn list_before(
        &self,
        before: TaskId,
        limit: usize,
        scan: usize,
        keep: &dyn Fn(&TaskView) -> bool,
    ) -> (Vec<TaskView>, Option<TaskId>) {
        let mut found = Vec::new();
        let mut at = before;
        let mut scanned = 0;
        while let Some((id, task)) = self.state.tasks.before(at) {
            if found.len() == limit || scanned == scan {
                return (found, Some(at));
            }
            at = id;
            scanned += 1;
            let view = self.view_found(&task);
            if keep(&view) {
                found.push(view);
            }
        }
        (found, None)
    }

    pub(crate) fn queue_views(&self) -> Vec<QueueView> {
        let methods = &self.state.methods;
        let queues = methods
            .by_name
            .values()
            .map(|number| &methods.queues[*number as usize]);
        queues
            .filter(|queue| !queue.methods.is_empty() || queue.paused.is_some())
            .map(|queue| self.queue_view(queue))
            .collect()
    }

    fn queue_view(&self, queue: &Queue) -> QueueView {
        let methods = || {
            queue
                .methods
                .iter()
                .map(|number| self.state.methods.get(*number))
        };
        let count = |shown| {
            let counts = queue.methods.iter().map(|number| {
                let method = self.state.methods.get(*number);
                let parked = self.state.methods.is_parked(*number);
                match shown {
                    TaskState::Parked if parked => method.counted(TaskState::Ready),
                    TaskState::Ready if parked => 0,
                    state => method.counted(state),
                }
            });
            (shown, counts.sum())
        };
        let mut workers = BTreeSet::new();
        for worker in self.live.workers.by_id.values() {
            let class = self.live.workers.slab[*worker].class;
            let serves = &self.live.workers.classes.list[class].methods;
            if serves.iter().any(|method| queue.methods.contains(method)) {
                workers.insert(*worker);
            }
        }
        let mut names: Vec<Arc<str>> = methods().map(|method| Arc::clone(&method.path)).collect();
        names.sort_unstable();
        names.dedup();
        QueueView {
            name: Arc::clone(&queue.name),
            paused: queue.paused.clone(),
            counts: STATES
                .into_iter()
                .map(count)
                .filter(|(_, count)| *count > 0)
                .collect(),
            oldest_ready: self.oldest_ready(queue),
            dead_letters: methods().map(|method| method.dead_letters).sum(),
            methods: names,
            workers: workers.len() as u32,
            held: self.held(queue),
        }
    }

    /// Tasks of a queue that limits hold, by method and why.
    fn held(&self, queue: &Queue) -> Vec<(Arc<str>, HeldBy, u64)> {
        let methods = &self.state.methods;
        let mut sums: BTreeMap<(Arc<str>, HeldBy), u64> = BTreeMap::new();
        for number in &queue.methods {
            let held = HeldBy::ALL.into_iter().zip(methods.held(*number));
            for (why, count) in held.filter(|(_, count)| *count > 0) {
                let path = Arc::clone(&methods.get(*number).path);
                *sums.entry((path, why)).or_default() += count;
            }
        }
        let sums = sums.into_iter();
        sums.map(|((method, why), count)| (method, why, count))
            .collect()
    }

    /// When the oldest task was accepted that stands first in a ready list of the queue.
    pub(crate) fn oldest_ready(&self, queue: &Queue) -> Option<u64> {
        let methods = queue
            .methods
            .iter()
            .map(|number| self.state.methods.get(*number));
        let heads = methods.flat_map(|method| method.ready_heads());
        heads.map(|slot| self.state.tasks[slot].created_at).min()
    }
}
