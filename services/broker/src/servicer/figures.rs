//! Figures for the scheduler.

use std::time::Duration;

use plait::pb::control::v1 as pb;
use plait_broker_core::{Figures, LostAttempts, MethodFigures, QueueFigures, WorkerFigures};

use super::times;

/// Figures as a message.
pub(super) fn message(figures: Figures, interval: Duration, early: bool) -> pb::Figures {
    pb::Figures {
        interval: times::duration(interval),
        workers: figures.workers.into_iter().map(worker).collect(),
        queues: figures.queues.into_iter().map(queue).collect(),
        methods: figures.methods.into_iter().map(method).collect(),
        lost: figures.lost.into_iter().map(lost).collect(),
        early,
    }
}

fn lost(lost: LostAttempts) -> pb::LostAttempts {
    pb::LostAttempts {
        worker: lost.worker.to_string(),
        attempts: lost.attempts,
        tasks: lost.tasks.iter().map(ToString::to_string).collect(),
    }
}

fn worker(figures: WorkerFigures) -> pb::WorkerFigures {
    let said = figures.said;
    pb::WorkerFigures {
        worker: figures.worker.to_string(),
        slots: figures.slots,
        window: figures.window,
        in_flight: figures.in_flight,
        suspended: figures.suspended,
        succeeded: figures.succeeded,
        failed: figures.failed,
        busy_ms: figures.busy_ms,
        methods: said.methods.iter().map(|(method, ..)| *method).collect(),
        well: said.methods.iter().map(|(_, well, _)| *well).collect(),
        ill: said.methods.iter().map(|(.., ill)| *ill).collect(),
        said_nothing: said.nothing,
        permits: said.permits,
    }
}

fn queue(figures: QueueFigures) -> pb::QueueFigures {
    pb::QueueFigures {
        queue: figures.queue.to_string(),
        ready: figures.ready,
        running: figures.running,
        waiting: figures.waiting,
        oldest_ready_ms: figures.oldest_ready_ms,
        paused: figures.paused,
        dead_letters: figures.dead_letters,
        held: figures.held,
    }
}

fn method(figures: MethodFigures) -> pb::MethodFigures {
    pb::MethodFigures {
        method: figures.method.to_string(),
        submitted: figures.submitted,
        outcomes: figures.outcomes.to_vec(),
        fresh_outcomes: figures.fresh.to_vec(),
        permits: figures.permits,
        retried: figures.retried,
        busy_ms: figures.busy_ms,
    }
}
