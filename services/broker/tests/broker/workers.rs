//! Workers' streams: the stream is the worker's life.

use std::time::Duration;

use plait::pb::v1 as pb;
use plait::pb::v1::attach_request::Message as Request;
use plait::pb::v1::attach_response::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::{Broker, Setup, Submitter, Worker, frame, hello, reason, soon};

#[tokio::test]
async fn a_stream_that_dies_ends_its_leases_at_once() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut first = Worker::attach(&broker, "w1").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let lost = first.attempt().await;
    drop(first);
    let mut second = Worker::attach(&broker, "w2").await;
    let got = second.attempt().await;
    assert_eq!(
        (got.task, got.payload.as_slice()),
        (lost.task, b"a".as_slice())
    );
    assert!(got.token > lost.token);
    let refused = second.succeed(&lost, b"by the old token").await.refused;
    assert_eq!((refused[0].task, refused[0].token), (lost.task, lost.token));
    assert!(
        second
            .succeed(&got, b"by the new token")
            .await
            .refused
            .is_empty()
    );
    assert_eq!(submitter.response(tasks[0]).await, b"by the new token");
}

#[tokio::test]
async fn an_attempt_that_may_have_begun_costs_one_acknowledged_or_not() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut first = Worker::attach(&broker, "w1").await;
    submitter.accept(1, frame(["a"])).await;
    // Read, and not acknowledged.
    let Message::Attempts(_) = first.read().await.unwrap() else {
        panic!("no attempts")
    };
    drop(first);
    let mut second = Worker::attach(&broker, "w2").await;
    assert_eq!(second.attempt().await.extra.attempt, 2);
}

#[tokio::test]
async fn a_worker_keeps_its_leases_over_kill_9_of_the_broker() {
    let mut broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a", "b"])).await;
    let attempts = worker.attempts(2).await;
    worker.succeed(&attempts[0], b"before").await;
    broker.crash_and_restart().await;
    let held = |got: &crate::support::Got| pb::HeldLease {
        task: got.task,
        token: got.token,
    };
    let again = pb::WorkerHello {
        held: vec![held(&attempts[0]), held(&attempts[1])],
        ..hello("w")
    };
    let mut worker = Worker::attach_as(&broker, again).await.unwrap();
    assert_eq!(worker.welcome.lost, [held(&attempts[0])]);
    assert!(
        worker
            .succeed(&attempts[1], b"after")
            .await
            .refused
            .is_empty()
    );
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.wait_for(&tasks).await;
    assert_eq!(submitter.response(tasks[0]).await, b"before");
    assert_eq!(submitter.response(tasks[1]).await, b"after");
}

#[tokio::test]
async fn leases_of_a_worker_that_does_not_come_back_are_given_to_another() {
    let mut broker = Broker::start_with(Setup::default().with("REATTACH_GRACE", "50ms")).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w1").await;
    submitter.accept(1, frame(["a"])).await;
    let lost = worker.attempt().await;
    broker.crash_and_restart().await;
    let mut other = Worker::attach(&broker, "w2").await;
    let got = other.attempt().await;
    assert_eq!(got.task, lost.task);
    // Tokens grow over restarts, too.
    assert!(got.token > lost.token);
}

#[tokio::test]
async fn a_second_stream_under_one_id_ends_the_first() {
    let broker = Broker::start().await;
    let mut first = Worker::attach(&broker, "w").await;
    let _second = Worker::attach(&broker, "w").await;
    let status = first.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
}

#[tokio::test]
async fn both_sides_say_that_they_live_and_a_silent_worker_is_gone() {
    let broker = Broker::start_with(Setup::default().with("HEARTBEAT_INTERVAL", "60ms")).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut silent = Worker::attach(&broker, "silent").await;
    assert_eq!(
        silent.welcome.heartbeat_interval.as_ref().unwrap().nanos,
        60_000_000
    );
    submitter.accept(1, frame(["a"])).await;
    let lost = silent.attempt().await;
    // The first beat shows that the broker speaks up by itself.
    assert!(matches!(
        silent.read().await.unwrap(),
        Message::Heartbeat(_)
    ));
    let status = silent.end().await.unwrap_err();
    assert!(status.message().contains("nothing was heard"), "{status}");
    assert_eq!(status.code(), Code::Cancelled);
    let mut other = Worker::attach(&broker, "other").await;
    assert_eq!(other.attempt().await.task, lost.task);
}

#[tokio::test]
async fn nothing_is_said_before_the_welcome() {
    let broker = Broker::start_with(Setup::default().with("HEARTBEAT_INTERVAL", "60ms")).await;
    let (requests, queue) = mpsc::channel(1);
    let answers = broker.workers().attach(ReceiverStream::new(queue)).await;
    let mut answers = answers.unwrap().into_inner();
    // Five of its beats, while it waits for the hello.
    let early = tokio::time::timeout(Duration::from_millis(300), answers.message()).await;
    assert!(early.is_err(), "{early:?}");
    let message = Some(Request::Hello(hello("late")));
    let hello = pb::AttachRequest {
        message,
        ..Default::default()
    };
    requests.send(hello).await.unwrap();
    let first = soon("a welcome", answers.message()).await.unwrap().unwrap();
    assert!(matches!(first.message, Some(Message::Welcome(_))));
}

#[tokio::test]
async fn a_worker_that_only_beats_stays() {
    let broker = Broker::start_with(Setup::default().with("HEARTBEAT_INTERVAL", "60ms")).await;
    let mut worker = Worker::attach(&broker, "w").await;
    // Ten beats are more than three intervals of silence would allow.
    for _ in 0..10 {
        assert!(matches!(
            worker.read().await.unwrap(),
            Message::Heartbeat(_)
        ));
        worker
            .send(Some(Request::Heartbeat(pb::WorkerHeartbeat::default())))
            .await;
    }
}

#[tokio::test]
async fn attempts_that_are_handed_back_go_to_another_worker() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut leaving = Worker::attach(&broker, "leaving").await;
    submitter.accept(1, frame(["a"])).await;
    let got = leaving.attempt().await;
    leaving
        .send(Some(Request::Drain(pb::WorkerDrain::default())))
        .await;
    let back = pb::HandBackFrame {
        tasks: vec![got.task],
        tokens: vec![got.token],
    };
    leaving.send(Some(Request::HandBack(back))).await;
    let mut other = Worker::attach(&broker, "other").await;
    let again = other.attempt().await;
    assert_eq!((again.task, again.extra.attempt), (got.task, 0));
    assert!(again.token > got.token);
}

#[tokio::test]
async fn a_worker_gets_no_more_than_its_window() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let one = pb::WorkerHello {
        slots: 1,
        ..hello("w")
    };
    let mut worker = Worker::attach_as(&broker, one).await.unwrap();
    submitter.accept(1, frame((0..50).map(|n| vec![n]))).await;
    // Twice the slots at most, so that a slot never waits for a round trip.
    let held = worker.attempts(2).await;
    submitter.accept(2, frame(["more"])).await;
    worker.succeed(&held[0], b"").await;
    // Only one has come since, in place of the one that ended.
    let next = worker.attempt().await;
    assert_eq!(next.payload, [2]);
}

#[tokio::test]
async fn a_method_that_nobody_declared_cannot_be_served() {
    let broker = Broker::start().await;
    let unknown = pb::WorkerHello {
        methods: vec!["/no.Such/Method".to_owned()],
        ..hello("w")
    };
    let status = Worker::attach_as(&broker, unknown).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "METHOD_UNKNOWN");
}

#[tokio::test]
async fn attempts_with_large_payloads_come_in_frames_of_bounded_size() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    for sequence in 1..=8 {
        submitter
            .accept(sequence, frame([vec![sequence as u8; 700_000]]))
            .await;
    }
    let mut worker = Worker::attach(&broker, "w").await;
    let mut seen = Vec::new();
    let mut received = 0;
    while seen.len() < 8 {
        let Message::Attempts(frame) = worker.read().await.unwrap() else {
            panic!("no attempts")
        };
        assert!(
            frame.payloads.len() <= 2,
            "{} payloads",
            frame.payloads.len()
        );
        assert_eq!(frame.sequence, received + 1);
        received = frame.sequence;
        seen.extend(frame.payloads.iter().map(|payload| payload[0]));
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
}
