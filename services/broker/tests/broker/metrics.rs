//! What Prometheus is told.

use std::collections::BTreeSet;

use plait::pb::control::v1 as control;
use tonic::Code;

use crate::support::calls::until;
use crate::support::exposition::{Exposition, http, scrape};
use crate::support::{Broker, ECHO, Scheduler, Setup, Submitter, Worker, frame, policy};
use plait::pb::v1 as pb;

/// A broker that tells metrics.
async fn observed() -> Broker {
    Broker::start_with(Setup::default().with("METRICS_LISTEN", "127.0.0.1:0")).await
}

fn depth(found: &Exposition, state: &str) -> f64 {
    found.value("plait_queue_depth", &[("queue", "test"), ("state", state)])
}

fn ended(found: &Exposition, state: &str) -> f64 {
    let labels = [("queue", "test"), ("method", ECHO), ("state", state)];
    found.value("plait_tasks_total", &labels)
}

/// Sets the method's gate, as a scheduler does that leads by no lease.
async fn gate(broker: &Broker, permits: Option<u32>) {
    let gate = control::MethodGate {
        method: ECHO.to_owned(),
        permits,
        valid_for: prost_types::Duration::try_from(std::time::Duration::from_secs(60)).ok(),
    };
    let request = control::SetGatesRequest { gates: vec![gate] };
    broker.control().set_gates(request).await.unwrap();
}

#[tokio::test]
async fn tasks_are_counted_where_they_are_and_how_they_ended() {
    let broker = observed().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame((0..10).map(|n| vec![n]))).await;
    let found = scrape(&broker).await;
    assert_eq!(
        (depth(&found, "READY"), depth(&found, "RUNNING")),
        (10.0, 0.0)
    );
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempts(8).await;
    worker.succeed(&got[0], b"").await;
    worker.succeed(&got[1], b"").await;
    worker.fail(&got[2], Code::InvalidArgument).await;
    worker.fail(&got[3], Code::Unavailable).await;
    // In turn for the first two, and the last of them again in some milliseconds.
    let mut later = worker.attempts(3).await;
    later.sort_by_key(|got| got.task);
    assert_eq!(later[0].task, got[3].task);
    let found = scrape(&broker).await;
    assert_eq!(
        (depth(&found, "READY"), depth(&found, "RUNNING")),
        (0.0, 7.0)
    );
    let all = ["SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"].map(|state| ended(&found, state));
    assert_eq!(all, [2.0, 1.0, 0.0, 0.0]);
    let method = [("queue", "test"), ("method", ECHO)];
    assert_eq!(found.value("plait_tasks_submitted_total", &method), 10.0);
    assert_eq!(found.value("plait_retries_total", &method), 1.0);
    let waits = found.value("plait_queue_wait_seconds_count", &method);
    let durations = found.value("plait_task_duration_seconds_count", &method);
    assert_eq!(
        (waits, durations),
        (10.0, 3.0),
        "once a task, not once an attempt"
    );
    let code = |code| {
        found.value(
            "plait_attempts_total",
            &[method[0], method[1], ("code", code)],
        )
    };
    assert_eq!(
        ["OK", "INVALID_ARGUMENT", "UNAVAILABLE"].map(code),
        [2.0, 1.0, 1.0]
    );
    assert_eq!(found.value("plait_dead_letters", &[("queue", "test")]), 1.0);
    let worker_figures = [
        "plait_workers",
        "plait_worker_slots",
        "plait_attempts_in_flight",
    ];
    assert_eq!(
        worker_figures.map(|name| found.value(name, &[])),
        [1.0, 8.0, 7.0]
    );
    assert!(found.value("plait_fsync_seconds_count", &[]) >= 5.0);
}

#[tokio::test]
async fn a_scheduler_that_takes_figures_takes_nothing_from_metrics() {
    let broker = observed().await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame(["a", "b"])).await;
    let mut submitted = 0;
    scheduler
        .find(|event| {
            if let control::observe_response::Event::Figures(figures) = event {
                submitted += figures.methods.iter().map(|one| one.submitted).sum::<u64>();
            }
            (submitted == 2).then_some(())
        })
        .await;
    submitter.accept(2, frame(["c"])).await;
    for _ in 0..2 {
        let found = scrape(&broker).await;
        let method = [("queue", "test"), ("method", ECHO)];
        assert_eq!(found.value("plait_tasks_submitted_total", &method), 3.0);
    }
}

#[tokio::test]
async fn a_breaker_is_open_half_open_and_closed_again_and_parks_meanwhile() {
    let broker = observed().await;
    let state = |found: &Exposition| found.value("plait_breaker_state", &[("method", ECHO)]);
    assert_eq!(state(&scrape(&broker).await), 0.0);
    gate(&broker, Some(0)).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame(["a", "b"])).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let found = scrape(&broker).await;
    assert_eq!(
        (
            state(&found),
            depth(&found, "PARKED"),
            depth(&found, "READY")
        ),
        (2.0, 2.0, 0.0)
    );
    gate(&broker, Some(1)).await;
    let probe = worker.attempt().await;
    // The probe is under way and no other may begin, which is not the same as open.
    let found = scrape(&broker).await;
    assert_eq!((state(&found), depth(&found, "PARKED")), (1.0, 1.0));
    worker.succeed(&probe, b"").await;
    gate(&broker, None).await;
    worker.attempt().await;
    let found = scrape(&broker).await;
    assert_eq!((state(&found), depth(&found, "PARKED")), (0.0, 0.0));
}

#[tokio::test]
async fn what_a_limit_holds_is_told_by_why() {
    let broker = Broker::empty(Setup::default().with("METRICS_LISTEN", "127.0.0.1:0")).await;
    let limited = control::MethodPolicy {
        concurrency_limit: 1,
        ..policy(ECHO)
    };
    let mut scheduler = Scheduler::observe(&broker).await;
    scheduler
        .declare(&broker, vec![limited, policy("/test.Echo/Free")])
        .await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    submitter.accept(1, frame(["a", "b", "c"])).await;
    worker.attempt().await;
    let found = scrape(&broker).await;
    let held = |by| found.value("plait_tasks_held", &[("method", ECHO), ("by", by)]);
    assert_eq!(
        ["CONCURRENCY", "RATE", "KEY_CONCURRENCY", "KEY_RATE"].map(held),
        [2.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(
        found.all("plait_tasks_held").len(),
        4,
        "a method without limits is not told"
    );
}

#[tokio::test]
async fn a_lease_that_ends_with_its_worker_is_counted() {
    let broker = observed().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let mut worker = Worker::attach(&broker, "w").await;
    worker.attempt().await;
    until(&broker, tasks[0], pb::TaskState::Running).await;
    drop(worker);
    let mut other = Worker::attach(&broker, "other").await;
    other.attempt().await;
    let found = scrape(&broker).await;
    let method = [("queue", "test"), ("method", ECHO)];
    let expired = |cause| {
        found.value(
            "plait_lease_expired_total",
            &[method[0], method[1], ("cause", cause)],
        )
    };
    let causes = ["WORKER_LOST", "ATTEMPT_TIMED_OUT", "BROKER_RESTARTED"];
    assert_eq!(causes.map(expired), [1.0, 0.0, 0.0]);
}

#[tokio::test]
async fn counters_begin_with_the_process_and_gauges_do_not() {
    let mut broker = observed().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    worker.succeed(&got, b"").await;
    // So that the worker does not take it.
    let pause = pb::PauseQueueRequest {
        name: "test".to_owned(),
        reason: "lunch".to_owned(),
    };
    broker.tasks().pause_queue(pause).await.unwrap();
    submitter.accept(2, frame(["b"])).await;
    assert_eq!(ended(&scrape(&broker).await, "SUCCEEDED"), 1.0);
    broker.crash_and_restart().await;
    let found = scrape(&broker).await;
    assert_eq!(
        (ended(&found, "SUCCEEDED"), depth(&found, "PARKED")),
        (0.0, 1.0)
    );
    let submitted = [("queue", "test"), ("method", ECHO)];
    assert_eq!(found.value("plait_tasks_submitted_total", &submitted), 0.0);
}

#[tokio::test]
async fn no_label_is_a_task_or_a_key() {
    let broker = observed().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    worker.succeed(&got, b"").await;
    let found = scrape(&broker).await;
    let mut known = BTreeSet::new();
    for name in found.kinds.keys() {
        let plain = found.all(name).iter();
        let buckets = format!("{name}_bucket");
        for (labels, _) in plain.chain(found.all(&buckets)) {
            known.extend(labels.keys().cloned());
        }
    }
    let expected = ["cause", "code", "le", "method", "queue", "state", "version"];
    assert_eq!(known.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn only_metrics_are_told_and_only_to_who_reads() {
    let mut broker = observed().await;
    assert_eq!(http(&broker, "GET /").await.0, 404);
    assert_eq!(http(&broker, "GET /metrics/more").await.0, 404);
    assert_eq!(http(&broker, "POST /metrics").await.0, 405);
    let (status, _, body) = http(&broker, "HEAD /metrics").await;
    assert_eq!((status, body.as_str()), (200, ""));
    broker.signal(rustix::process::Signal::TERM);
    assert!(broker.ended().await.success());
}

#[tokio::test]
async fn without_an_address_nothing_is_told() {
    let broker = Broker::start().await;
    assert_eq!(broker.metrics, None);
}
