//! What the broker tells Prometheus: figures that the state machine keeps anyway, as text. Asked for, they cost a walk
//! over queues and methods; nothing is measured for them on the way of a task but for sums by its method.
//!
//! No label has a value that tasks or callers choose freely: queues and methods come from contracts, the rest from
//! fixed lists. `docs/metrics.md` has all names.

mod exposition;
mod sync_times;

pub use exposition::CONTENT_TYPE;
pub use sync_times::SyncTimes;

use plait_broker_core::effect::{HeldBy, TaskState};
use plait_broker_core::metrics::{
    BreakerState, FINAL, LeaseEnd, MethodMetrics, Metrics, QueueMetrics, Spans, UNFINISHED,
};
use tonic::Code;

use crate::states;
use exposition::{Exposition, seconds};

/// All metrics of a broker as text.
pub fn text(metrics: &Metrics, syncs: &SyncTimes) -> String {
    let mut out = Exposition::default();
    broker(&mut out, metrics);
    queues(&mut out, &metrics.queues);
    tasks(&mut out, &metrics.methods);
    attempts(&mut out, &metrics.methods);
    restraints(&mut out, &metrics.methods);
    out.histogram(
        "plait_fsync_seconds",
        "Time that a group of records took to be durable.",
    );
    out.spans(&[], syncs.up_to(), syncs.sum_s());
    out.finish()
}

fn broker(out: &mut Exposition, metrics: &Metrics) {
    out.gauge("plait_broker_info", "Always 1; tells the broker's version.");
    out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let mut one = |name, help, value: u64| {
        out.gauge(name, help);
        out.sample(&[], value);
    };
    one("plait_workers", "Attached workers.", metrics.workers);
    one(
        "plait_workers_gated",
        "Workers that get no attempts, or only probes, because theirs failed.",
        metrics.workers_gated,
    );
    one(
        "plait_worker_slots",
        "Attempts that attached workers offer to hold.",
        metrics.slots,
    );
    one(
        "plait_attempts_in_flight",
        "Attempts that attached workers hold, suspended flows not counted.",
        metrics.in_flight,
    );
    one(
        "plait_tasks_in_memory",
        "Tasks in memory, finished ones too.",
        metrics.tasks_in_memory,
    );
    one(
        "plait_resident_bytes",
        "Payloads in memory, bytes.",
        metrics.resident_bytes,
    );
    one("plait_archives", "Archive files.", metrics.archives);
    one(
        "plait_archived_tasks",
        "Finished tasks in archive files.",
        metrics.archived_tasks,
    );
}

fn queues(out: &mut Exposition, queues: &[QueueMetrics]) {
    out.gauge(
        "plait_queue_depth",
        "Tasks of a queue that are not final, by state.",
    );
    for queue in queues {
        for (state, count) in UNFINISHED.into_iter().zip(queue.depth) {
            out.sample(&[("queue", &queue.queue), ("state", name(state))], count);
        }
    }
    out.gauge(
        "plait_oldest_age_seconds",
        "Age of the oldest task of a queue that is READY or PARKED; 0: there is none.",
    );
    for queue in queues {
        out.sample(&[("queue", &queue.queue)], seconds(queue.oldest_ms));
    }
    out.gauge("plait_dead_letters", "Dead letters of a queue.");
    for queue in queues {
        out.sample(&[("queue", &queue.queue)], queue.dead_letters);
    }
    out.gauge("plait_queue_paused", "1 while a queue is paused, else 0.");
    for queue in queues {
        out.sample(&[("queue", &queue.queue)], u8::from(queue.paused));
    }
}

fn tasks(out: &mut Exposition, methods: &[MethodMetrics]) {
    out.counter("plait_tasks_submitted_total", "Tasks that were accepted.");
    for method in methods {
        out.sample(&labels(method), method.submitted);
    }
    out.counter("plait_tasks_total", "Tasks that ended, by final state.");
    for method in methods {
        let [queue, path] = labels(method);
        for (state, count) in FINAL.into_iter().zip(method.ended) {
            out.sample(&[queue, path, ("state", name(state))], count);
        }
    }
    out.histogram(
        "plait_queue_wait_seconds",
        "From when a task might start to its first start.",
    );
    for method in methods {
        spans(out, method, &method.waits);
    }
    out.histogram(
        "plait_task_duration_seconds",
        "From a task's acceptance to its end.",
    );
    for method in methods {
        spans(out, method, &method.durations);
    }
}

fn attempts(out: &mut Exposition, methods: &[MethodMetrics]) {
    out.counter(
        "plait_attempts_total",
        "Attempts that ended, by gRPC code; those that have not been seen are left out.",
    );
    for method in methods {
        let [queue, path] = labels(method);
        for (code, count) in (0..).zip(method.attempts) {
            if count > 0 {
                out.sample(&[queue, path, ("code", code_name(code))], count);
            }
        }
    }
    out.counter(
        "plait_attempt_seconds_total",
        "From dispatch to outcome of attempts that ended, summed.",
    );
    for method in methods {
        out.sample(&labels(method), seconds(method.busy_ms));
    }
    out.counter(
        "plait_retries_total",
        "Attempts after which the task waits for another.",
    );
    for method in methods {
        out.sample(&labels(method), method.retried);
    }
    out.counter(
        "plait_lease_expired_total",
        "Leases that ended without an outcome, by cause.",
    );
    for method in methods {
        let [queue, path] = labels(method);
        for (cause, count) in LeaseEnd::ALL.into_iter().zip(method.leases_expired) {
            out.sample(&[queue, path, ("cause", cause_name(cause))], count);
        }
    }
}

fn restraints(out: &mut Exposition, methods: &[MethodMetrics]) {
    out.gauge(
        "plait_breaker_state",
        "Breaker of a method: 0 closed, 1 half open, 2 open.",
    );
    for method in methods {
        let state = match method.breaker {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        out.sample(&[("method", &method.method)], state);
    }
    out.gauge(
        "plait_tasks_held",
        "READY tasks that a limit holds, of methods that have limits.",
    );
    for method in methods {
        for (why, count) in HeldBy::ALL
            .into_iter()
            .zip(method.held.into_iter().flatten())
        {
            let by = states::held_by(why).as_str_name();
            let by = by.trim_start_matches("HELD_BY_");
            out.sample(&[("method", &method.method), ("by", by)], count);
        }
    }
}

fn spans(out: &mut Exposition, method: &MethodMetrics, spans: &Spans) {
    let up_to = spans.up_to();
    let up_to = up_to.map(|(bound, count)| (bound.map(seconds), count));
    out.spans(&labels(method), up_to, seconds(spans.sum_ms()));
}

fn labels(method: &MethodMetrics) -> [(&str, &str); 2] {
    [("queue", &method.queue), ("method", &method.method)]
}

fn name(state: TaskState) -> &'static str {
    let name = states::to_wire(state).as_str_name();
    name.trim_start_matches("TASK_STATE_")
}

/// As the events of a task call them.
fn cause_name(cause: LeaseEnd) -> &'static str {
    match cause {
        LeaseEnd::AttemptTimedOut => "ATTEMPT_TIMED_OUT",
        LeaseEnd::WorkerLost => "WORKER_LOST",
        LeaseEnd::BrokerRestarted => "BROKER_RESTARTED",
    }
}

/// A gRPC code as gRPC writes it.
fn code_name(code: i32) -> &'static str {
    match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
