//! What breakers and operators command, and the figures that come before their time.

use std::time::Duration;

use plait::pb::control::v1 as control;
use plait::pb::control::v1::observe_response::Event;
use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::{
    Broker, ECHO, Scheduler, Setup, Submitter, Worker, frame, policy, reason, soon,
};

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

/// One task each of these keys.
fn of_keys(keys: &[&str]) -> pb::SubmitFrame {
    pb::SubmitFrame {
        limit_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..frame(keys.iter().map(|key| key.as_bytes().to_vec()))
    }
}

fn weights(method: &str, weights: &[(&str, u32)]) -> control::SetWeightsRequest {
    let weights = weights.iter().map(|(key, weight)| control::KeyWeight {
        key: (*key).to_owned(),
        weight: *weight,
    });
    control::SetWeightsRequest {
        method: method.to_owned(),
        weights: weights.collect(),
    }
}

#[tokio::test]
async fn weights_hold_at_once_and_over_a_restart() {
    let mut broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let fair = control::MethodPolicy {
        fair_by_key: true,
        ..policy(ECHO)
    };
    scheduler.declare(&broker, vec![fair]).await;
    let set = weights(ECHO, &[("b", 3)]);
    broker.control().set_weights(set).await.unwrap();
    let mut submitter = Submitter::open(&broker, 1).await;
    let keys = ["a"; 30].into_iter().chain(["b"; 30]).collect::<Vec<_>>();
    submitter.accept(1, of_keys(&keys)).await;
    broker.crash_and_restart().await;
    let mut worker = Worker::attach(&broker, "w").await;
    let begun = worker.attempts(8).await;
    let own = begun.iter().filter(|each| each.payload == b"b");
    assert_eq!(own.count(), 6, "three of four are b's");
}

#[tokio::test]
async fn weights_that_cannot_hold_are_refused() {
    let broker = Broker::start().await;
    let many: Vec<String> = (0..1_001).map(|key| key.to_string()).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|key| (key.as_str(), 2)).collect();
    let long = "x".repeat(257);
    for wrong in [
        weights("ECHO", &[("a", 2)]),
        weights(ECHO, &[("a", 0)]),
        weights(ECHO, &[("a", 1_001)]),
        weights(ECHO, &[("", 2)]),
        weights(ECHO, &[(&long, 2)]),
        weights(ECHO, &many),
    ] {
        let refused = broker.control().set_weights(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "INVALID_REQUEST");
    }
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
