//! SIGTERM: nothing new, what runs is finished, nothing is lost.

use plait::pb::google::rpc;
use plait::pb::v1 as pb;
use plait::pb::v1::attach_response::Message;
use prost::Message as _;
use rustix::process::Signal;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Broker, Setup, Submitter, Worker, detail, frame, reason, soon};

#[tokio::test]
async fn a_drain_takes_nothing_new_and_waits_for_what_runs() {
    let mut broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["runs"])).await;
    let got = worker.attempt().await;
    let mut health = HealthClient::new(broker.channel());
    let request = HealthCheckRequest {
        service: "plait.v1.TaskService".to_owned(),
    };
    let mut status = health.watch(request).await.unwrap().into_inner();
    let serving = status.message().await.unwrap().unwrap();
    assert_eq!(serving.status(), ServingStatus::Serving);
    broker.signal(Signal::TERM);
    let serving = soon("the change", status.message()).await.unwrap().unwrap();
    assert_eq!(serving.status(), ServingStatus::NotServing);
    let Message::Drain(drain) = worker.other().await.unwrap() else {
        panic!("no drain")
    };
    assert_eq!(drain.grace.unwrap().seconds, 10);
    // A stream that is open is told to come again; the frame keeps its number.
    submitter.submit(2, frame(["late"])).await;
    let answer = submitter.accepted(2).await;
    assert!(answer.retry_after.is_some() && answer.accepted.is_none());
    let request = pb::SubmitTasksRequest {
        tasks: Some(frame(["late"])),
        ..Default::default()
    };
    let refused = broker.tasks().submit_tasks(request).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    let details = rpc::Status::decode(refused.details()).unwrap();
    assert!(detail::<rpc::RetryInfo>(&details, "google.rpc.RetryInfo").is_some());
    worker.succeed(&got, b"done").await;
    assert_eq!(submitter.response(tasks[0]).await, b"done");
    let ended = submitter.end().await.unwrap_err();
    assert_eq!(reason(&ended), "DRAINING");
    assert_eq!(worker.end().await.unwrap_err().code(), Code::Unavailable);
    assert!(broker.ended().await.success());
    broker.restart().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    assert_eq!(submitter.last_sequence, 1);
    submitter.accept(2, frame(["late"])).await;
    submitter.wait_for(&tasks).await;
    assert_eq!(submitter.response(tasks[0]).await, b"done");
}

#[tokio::test]
async fn a_drain_starts_nothing() {
    let mut broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let one = pb::WorkerHello {
        slots: 1,
        ..crate::support::hello("w")
    };
    let mut worker = Worker::attach_as(&broker, one).await.unwrap();
    submitter.accept(1, frame((0..10).map(|n| vec![n]))).await;
    let held = worker.attempts(2).await;
    broker.signal(Signal::TERM);
    let Message::Drain(_) = worker.other().await.unwrap() else {
        panic!("no drain")
    };
    for got in &held {
        worker.succeed(got, b"").await;
    }
    // With room in the window again, nothing came but the end.
    assert_eq!(worker.other().await.unwrap_err().code(), Code::Unavailable);
    assert!(broker.ended().await.success());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let mut broker = Broker::start_with(Setup::default().with("DRAIN_GRACE", "50ms")).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    submitter.accept(1, frame(["stuck"])).await;
    let got = worker.attempt().await;
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.success());
    // The worker has it still when it comes back.
    broker.restart().await;
    let held = vec![pb::HeldLease {
        task: got.task,
        token: got.token,
    }];
    let again = pb::WorkerHello {
        held,
        ..crate::support::hello("w")
    };
    let mut worker = Worker::attach_as(&broker, again).await.unwrap();
    assert!(worker.welcome.lost.is_empty());
    assert!(worker.succeed(&got, b"done").await.refused.is_empty());
}

#[tokio::test]
async fn a_second_signal_means_now() {
    let mut broker = Broker::start_with(Setup::default().with("DRAIN_GRACE", "1h")).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    submitter.accept(1, frame(["stuck"])).await;
    worker.attempt().await;
    broker.signal(Signal::TERM);
    let Message::Drain(_) = worker.other().await.unwrap() else {
        panic!("no drain")
    };
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.success());
}
