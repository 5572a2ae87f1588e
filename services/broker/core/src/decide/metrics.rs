//! What metrics tell, read from what is kept anyway.

use crate::effect::{HeldBy, TaskState};
use crate::ids::Millis;
use crate::metrics::{MethodMetrics, Metrics, QueueMetrics, UNFINISHED};
use crate::partition::Partition;
use crate::state::methods::Queue;
use crate::state::slab::NONE;
use std::sync::Arc;

impl Partition {
    pub(crate) fn collect_metrics(&self, now: Millis) -> Metrics {
        let methods = &self.state.methods;
        let queues = methods.by_name.values();
        let workers = &self.live.workers;
        let attached = || workers.by_id.values().map(|number| &workers.slab[*number]);
        let (resident_bytes, tasks_in_memory) = self.load();
        let (archives, archived_tasks) = self.archived();
        Metrics {
            queues: queues
                .map(|number| &methods.queues[*number as usize])
                .filter(|queue| !queue.methods.is_empty() || queue.paused.is_some())
                .map(|queue| self.queue_metrics(queue, now))
                .collect(),
            methods: methods
                .families()
                .map(|(path, family)| self.method_metrics(path, family))
                .collect(),
            workers: attached().count() as u64,
            workers_gated: attached()
                .filter(|worker| worker.gate.permits.is_some())
                .count() as u64,
            slots: attached().map(|worker| u64::from(worker.slots)).sum(),
            in_flight: self.in_flight(),
            tasks_in_memory,
            resident_bytes,
            archives,
            archived_tasks,
        }
    }

    fn queue_metrics(&self, queue: &Queue, now: Millis) -> QueueMetrics {
        let methods = &self.state.methods;
        let mut depth = [0; UNFINISHED.len()];
        let mut dead_letters = 0;
        for number in &queue.methods {
            let method = methods.get(*number);
            dead_letters += method.dead_letters;
            for (place, state) in UNFINISHED.into_iter().enumerate() {
                let place = match state {
                    TaskState::Ready if methods.is_parked(*number) => TaskState::Parked as usize,
                    _ => place,
                };
                depth[place] += method.counted(state);
            }
        }
        QueueMetrics {
            queue: Arc::clone(&queue.name),
            depth,
            dead_letters,
            oldest_ms: self
                .oldest_ready(queue)
                .map_or(0, |at| now.saturating_sub(at)),
            paused: queue.paused.is_some(),
        }
    }

    fn method_metrics(&self, path: &Arc<str>, family: u32) -> MethodMetrics {
        let methods = &self.state.methods;
        let own = methods.find(path).unwrap_or(family);
        let limited = methods.get(family).limiter != NONE;
        let held = || {
            let mut sum = [0; HeldBy::ALL.len()];
            for route in methods.routes(family) {
                let held = sum.iter_mut().zip(methods.held(*route));
                held.for_each(|(sum, count)| *sum += count);
            }
            sum
        };
        let totals = methods.totals(family);
        MethodMetrics {
            method: Arc::clone(path),
            queue: Arc::clone(&methods.queue_of(own).name),
            breaker: methods.gate(family).state(),
            held: limited.then(held),
            submitted: totals.taken.submitted,
            attempts: totals.taken.outcomes,
            retried: totals.taken.retried,
            busy_ms: totals.taken.busy_ms,
            ended: totals.ended,
            leases_expired: totals.leases_expired,
            waits: totals.waits,
            durations: totals.durations,
        }
    }
}
