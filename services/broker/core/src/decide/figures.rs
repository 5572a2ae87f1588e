//! Figures for the scheduler and for metrics.

use crate::effect::TaskState;
use crate::ids::Millis;
use crate::partition::{
    Figures, MethodFigures, Partition, QueueFigures, WorkerFigures, WorkerSaid,
};
use crate::state::methods::Tally;
use std::sync::Arc;

impl Partition {
    pub(crate) fn figures(&mut self, now: Millis) -> Figures {
        let (mut workers, methods) = (self.worker_figures(), self.method_figures());
        self.take_sayings(&mut workers, &methods);
        Figures {
            workers,
            queues: self.queue_figures(now),
            methods,
            lost: std::mem::take(&mut self.live.lost),
            splits: self.split_figures(),
        }
    }

    fn worker_figures(&mut self) -> Vec<WorkerFigures> {
        let workers = &mut self.live.workers;
        let numbers = workers.by_id.values();
        let figures = numbers.map(|number| {
            let worker = &mut workers.slab[*number];
            WorkerFigures {
                worker: Arc::clone(&worker.id),
                slots: worker.slots,
                window: worker.window(),
                in_flight: worker.in_flight(),
                suspended: worker.suspended,
                succeeded: std::mem::take(&mut worker.succeeded),
                failed: std::mem::take(&mut worker.failed),
                busy_ms: std::mem::take(&mut worker.busy_ms),
                said: WorkerSaid::default(),
            }
        });
        figures.collect()
    }

    fn queue_figures(&self, now: Millis) -> Vec<QueueFigures> {
        let methods = &self.state.methods;
        let queues = methods
            .by_name
            .values()
            .map(|number| &methods.queues[*number as usize]);
        let figures = queues
            .filter(|queue| !queue.methods.is_empty())
            .map(|queue| {
                let sum = |state| {
                    queue
                        .methods
                        .iter()
                        .map(|number| methods.get(*number).counted(state))
                        .sum::<u64>()
                };
                QueueFigures {
                    queue: Arc::clone(&queue.name),
                    ready: sum(TaskState::Ready),
                    running: sum(TaskState::Running),
                    waiting: sum(TaskState::Scheduled) + sum(TaskState::Backoff),
                    oldest_ready_ms: self
                        .oldest_ready(queue)
                        .map_or(0, |at| now.saturating_sub(at)),
                    paused: queue.paused.is_some(),
                    dead_letters: queue
                        .methods
                        .iter()
                        .map(|number| methods.get(*number).dead_letters)
                        .sum(),
                    held: queue
                        .methods
                        .iter()
                        .flat_map(|number| methods.held(*number))
                        .sum(),
                }
            });
        figures.collect()
    }

    fn method_figures(&mut self) -> Vec<MethodFigures> {
        let tallies = self.state.methods.take_tallies();
        let methods = &self.state.methods;
        let figures = |(method, tally): (Arc<str>, Tally)| MethodFigures {
            submitted: tally.submitted,
            outcomes: tally.outcomes,
            fresh: tally.fresh,
            permits: methods.permits(&method),
            retried: tally.retried,
            busy_ms: tally.busy_ms,
            method,
        };
        tallies.into_iter().map(figures).collect()
    }
}
