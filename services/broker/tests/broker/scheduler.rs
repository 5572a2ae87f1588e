//! What the scheduler observes and commands.

use plait::pb::control::v1 as control;
use plait::pb::control::v1::observe_response::Event;
use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::{Broker, ECHO, Scheduler, Submitter, Worker, frame, hello};

#[tokio::test]
async fn workers_are_seen_coming_and_going() {
    let broker = Broker::start().await;
    let known = pb::WorkerHello {
        version: "1.2".to_owned(),
        client: "test/0".to_owned(),
        ..hello("before")
    };
    let before = Worker::attach_as(&broker, known).await.unwrap();
    let mut scheduler = Scheduler::observe(&broker).await;
    let attached = |event| match event {
        Event::WorkerAttached(attached) => Some(attached),
        _ => None,
    };
    let found = scheduler.find(attached).await;
    let expected = control::WorkerAttached {
        worker: "before".to_owned(),
        name: "before".to_owned(),
        version: "1.2".to_owned(),
        client: "test/0".to_owned(),
        methods: vec![ECHO.to_owned()],
        slots: 8,
        ..control::WorkerAttached::default()
    };
    assert_eq!(found, expected);
    let _after = Worker::attach(&broker, "after").await;
    assert_eq!(scheduler.find(attached).await.worker, "after");
    drop(before);
    let detached = |event| match event {
        Event::WorkerDetached(detached) => Some(detached),
        _ => None,
    };
    assert_eq!(scheduler.find(detached).await.worker, "before");
}

#[tokio::test]
async fn an_endpoint_is_told_and_withdrawn_when_its_worker_drains() {
    let broker = Broker::start().await;
    let known = pb::WorkerHello {
        endpoint: "127.0.0.1:50051".to_owned(),
        ..hello("listens")
    };
    let worker = Worker::attach_as(&broker, known).await.unwrap();
    let attached = |event| match event {
        Event::WorkerAttached(attached) => Some(attached.endpoint),
        _ => None,
    };
    let mut scheduler = Scheduler::observe(&broker).await;
    assert_eq!(scheduler.find(attached).await, "127.0.0.1:50051");
    let drain = pb::WorkerDrain {
        reason: "stopping".to_owned(),
    };
    worker
        .send(Some(pb::attach_request::Message::Drain(drain)))
        .await;
    assert_eq!(scheduler.find(attached).await, "");
    // A scheduler that comes later is told the same.
    let mut later = Scheduler::observe(&broker).await;
    assert_eq!(later.find(attached).await, "");
}

#[tokio::test]
async fn a_worker_that_comes_again_under_its_id_is_never_seen_going() {
    let broker = Broker::start().await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut first = Worker::attach(&broker, "w").await;
    let second = Worker::attach(&broker, "w").await;
    first.end().await.unwrap_err();
    let mut seen = Vec::new();
    drop(second);
    loop {
        match scheduler.event().await.unwrap() {
            Event::WorkerAttached(_) => seen.push("attached"),
            Event::WorkerDetached(_) => {
                seen.push("detached");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(seen, ["attached", "attached", "detached"]);
}

#[tokio::test]
async fn figures_tell_of_queues_workers_and_methods() {
    let broker = Broker::start().await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame((0..20).map(|n| vec![n]))).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempt().await;
    worker.succeed(&got, b"").await;
    let (mut submitted, mut succeeded) = (0, 0);
    scheduler
        .find(|event| {
            let Event::Figures(figures) = event else {
                return None;
            };
            submitted += figures
                .methods
                .iter()
                .map(|method| method.submitted)
                .sum::<u64>();
            succeeded += figures
                .methods
                .iter()
                .map(|method| method.outcomes[0])
                .sum::<u64>();
            let worker = figures.workers.first()?;
            assert_eq!((worker.worker.as_str(), worker.slots), ("w", 8));
            let queue = figures.queues.first()?;
            assert_eq!(queue.queue, "test");
            let all = queue.ready + queue.running + succeeded == 20;
            (all && submitted == 20 && succeeded == 1).then_some(())
        })
        .await;
}

#[tokio::test]
async fn there_is_one_scheduler_at_a_time() {
    let broker = Broker::start().await;
    let mut first = Scheduler::observe(&broker).await;
    let mut second = Scheduler::observe(&broker).await;
    let status = loop {
        match first.event().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted);
    second.event().await.unwrap();
}

#[tokio::test]
async fn a_window_bounds_what_a_worker_holds() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let window = |worker: &str, window| control::WorkerWindow {
        worker: worker.to_owned(),
        window,
    };
    let request = control::SetWindowsRequest {
        windows: vec![window("w", 1), window("nobody", 5)],
    };
    let answer = broker
        .control()
        .set_windows(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.unknown, ["nobody"]);
    submitter.accept(1, frame(["a", "b", "c"])).await;
    for expected in ["a", "b", "c"] {
        let got = worker.attempt().await;
        assert_eq!(got.payload, expected.as_bytes());
        // Nothing else came meanwhile: the settlement comes before the next attempt.
        worker.outcomes(vec![(&got, Ok(Vec::new()))]).await;
        worker.settled().await;
    }
}
