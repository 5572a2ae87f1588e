//! What breakers and operators command, and the figures that come before their time.

use std::time::Duration;

use plait::pb::control::v1 as control;
use plait::pb::control::v1::observe_response::Event;
use tonic::Code;

use crate::support::{Broker, ECHO, Submitter, Worker, frame, soon};

/// Far beyond the patience of a test, so that whatever comes is early.
const NEVER: Duration = Duration::from_secs(3600);

async fn early_figures(
    events: &mut tonic::Streaming<control::ObserveResponse>,
) -> control::Figures {
    loop {
        let event = soon("figures", events.message()).await.unwrap().unwrap();
        if let Some(Event::Figures(figures)) = event.event {
            assert!(figures.early);
            return figures;
        }
    }
}

/// Fails attempts, one after the other.
async fn fail(worker: &mut Worker, count: usize) {
    for _ in 0..count {
        let got = worker.attempt().await;
        worker.fail(&got, Code::Unavailable).await;
    }
}

#[tokio::test]
async fn figures_come_early_when_attempts_begin_to_fail() {
    let broker = Broker::start().await;
    let observe = control::ObserveRequest {
        figures_interval: prost_types::Duration::try_from(NEVER).ok(),
        early_figures: true,
        ..control::ObserveRequest::default()
    };
    let mut events = broker
        .control()
        .observe(observe)
        .await
        .unwrap()
        .into_inner();
    let mut worker = Worker::attach(&broker, "w").await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = ["a", "b", "c", "d", "e", "f", "g", "h"];
    submitter.accept(1, frame(tasks)).await;
    fail(&mut worker, 10).await;
    let mut ill = 0;
    while ill < 10 {
        let figures = early_figures(&mut events).await;
        let place = figures.workers[0].methods[0] as usize;
        assert_eq!(figures.methods[place].method, ECHO);
        assert!(
            Duration::try_from(figures.interval.unwrap()).unwrap() >= Duration::from_millis(50)
        );
        ill += figures.workers[0].ill[0];
    }
    assert_eq!(ill, 10);
    // And again, for new ones.
    fail(&mut worker, 10).await;
    assert!(early_figures(&mut events).await.workers[0].ill[0] >= 10);
}

#[tokio::test]
async fn a_gate_of_a_worker_holds_what_others_do_not_take() {
    let broker = Broker::start().await;
    let mut ill = Worker::attach(&broker, "ill").await;
    let gate = |worker: &str, permits| control::SetWorkerGatesRequest {
        gates: vec![control::WorkerGate {
            worker: worker.to_owned(),
            permits,
            valid_for: prost_types::Duration::try_from(NEVER).ok(),
        }],
    };
    let unknown = broker
        .control()
        .set_worker_gates(gate("no", Some(0)))
        .await
        .unwrap();
    assert_eq!(unknown.into_inner().unknown, ["no"]);
    broker
        .control()
        .set_worker_gates(gate("ill", Some(0)))
        .await
        .unwrap();
    let mut well = Worker::attach(&broker, "well").await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame(["a", "b", "c"])).await;
    assert_eq!(well.attempts(3).await.len(), 3);
    broker
        .control()
        .set_worker_gates(gate("ill", None))
        .await
        .unwrap();
    submitter.accept(2, frame(["d", "e", "f"])).await;
    ill.attempt().await;
}

#[tokio::test]
async fn other_limits_hold_at_once_and_over_a_restart() {
    let mut broker = Broker::start().await;
    let limit = |method: &str, concurrency_limit| control::SetLimitsRequest {
        limits: vec![control::MethodLimits {
            method: method.to_owned(),
            concurrency_limit,
            ..control::MethodLimits::default()
        }],
    };
    let unknown = broker
        .control()
        .set_limits(limit("/no.S/M", 1))
        .await
        .unwrap();
    assert_eq!(unknown.into_inner().unknown, ["/no.S/M"]);
    broker.control().set_limits(limit(ECHO, 1)).await.unwrap();
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame(["a", "b", "c"])).await;
    broker.crash_and_restart().await;
    let mut worker = Worker::attach(&broker, "w").await;
    let first = worker.attempt().await;
    let request = plait::pb::v1::GetQueueRequest {
        name: "test".to_owned(),
    };
    let answer = broker.tasks().get_queue(request).await.unwrap();
    let queue = answer.into_inner().queue.unwrap();
    assert_eq!(queue.held.iter().map(|held| held.count).sum::<i64>(), 2);
    worker.succeed(&first, b"").await;
    worker.attempt().await;
    broker.control().set_limits(limit(ECHO, 0)).await.unwrap();
    worker.attempt().await;
}
