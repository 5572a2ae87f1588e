//! Submitters' sessions: nothing is accepted twice, whatever breaks.

use plait::pb::v1 as pb;
use plait::pb::v1::submit_stream_request::Message as Request;
use tonic::Code;

use crate::support::{Broker, Ended, Setup, Submitter, Worker, frame, info, reason};

#[tokio::test]
async fn a_session_that_reconnects_sends_again_and_nothing_is_accepted_twice() {
    let broker = Broker::start().await;
    let mut first = Submitter::open(&broker, 1).await;
    assert_eq!(first.last_sequence, 0);
    let tasks = first.accept(1, frame(["a", "b"])).await;
    drop(first);
    let mut second = Submitter::open(&broker, 1).await;
    assert_eq!(second.last_sequence, 1);
    assert_eq!(second.accept(1, frame(["a", "b"])).await, tasks);
    let more = second.accept(2, frame(["c"])).await;
    let mut worker = Worker::attach(&broker, "w").await;
    for _ in 0..3 {
        let got = worker.attempt().await;
        let answer = got.payload.clone();
        worker.succeed(&got, &answer).await;
    }
    // The first frame was sent again with its wish for results, so they come on the new stream.
    assert_eq!(second.response(tasks[0]).await, b"a");
    assert_eq!(second.response(tasks[1]).await, b"b");
    assert_eq!(second.response(more[0]).await, b"c");
    assert_eq!(second.unread_results(), 0);
}

#[tokio::test]
async fn a_session_outlives_kill_9_of_the_broker() {
    let mut broker = Broker::start().await;
    let mut first = Submitter::open(&broker, 1).await;
    let tasks = first.accept(1, frame(["a", "b", "c"])).await;
    broker.crash_and_restart().await;
    let mut second = Submitter::open(&broker, 1).await;
    assert_eq!(second.last_sequence, 1);
    assert_eq!(second.accept(1, frame(["a", "b", "c"])).await, tasks);
    let mut worker = Worker::attach(&broker, "w").await;
    let mut payloads = Vec::new();
    for _ in 0..3 {
        let got = worker.attempt().await;
        payloads.push(got.payload.clone());
        worker.succeed(&got, b"done").await;
    }
    payloads.sort();
    assert_eq!(payloads, [b"a", b"b", b"c"]);
    for task in tasks {
        assert_eq!(second.response(task).await, b"done");
    }
}

#[tokio::test]
async fn results_are_read_after_the_fact() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempt().await;
    worker.succeed(&got, b"done").await;
    assert_eq!(submitter.response(tasks[0]).await, b"done");
    let mut other = Submitter::open(&broker, 2).await;
    other.wait_for(&tasks).await;
    assert_eq!(other.response(tasks[0]).await, b"done");
}

#[tokio::test]
async fn waiting_for_a_task_that_is_unknown_fails_with_not_found() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.wait_for(&[77]).await;
    let failure = submitter.failure(77).await;
    assert_eq!(failure.code, Code::NotFound as u32);
    assert_eq!(info(&failure.details).unwrap().reason, "TASK_NOT_FOUND");
}

#[tokio::test]
async fn results_that_are_forgotten_do_not_come() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = submitter.accept(1, frame(["a", "b"])).await;
    let forget = pb::AwaitFrame {
        forget: vec![tasks[0]],
        ..pb::AwaitFrame::default()
    };
    submitter.send(Request::Await(forget)).await;
    // A second acceptance shows that the wish was taken in.
    submitter.accept(2, frame(["c"])).await;
    let mut worker = Worker::attach(&broker, "w").await;
    for got in worker.attempts(2).await {
        worker.succeed(&got, b"done").await;
    }
    assert_eq!(submitter.response(tasks[1]).await, b"done");
    submitter.wait_for(&[77]).await;
    submitter.failure(77).await;
    assert_eq!(submitter.unread_results(), 0);
}

#[tokio::test]
async fn a_second_stream_of_a_session_ends_the_first() {
    let broker = Broker::start().await;
    let mut first = Submitter::open(&broker, 1).await;
    let _second = Submitter::open(&broker, 1).await;
    let status = first.end().await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Aborted, "STATE_CONFLICT")
    );
}

#[tokio::test]
async fn a_sequence_that_skips_ends_the_stream() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.submit(2, frame(["a"])).await;
    let status = submitter.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(reason(&status), "INVALID_REQUEST");
}

#[tokio::test]
async fn what_was_sent_before_the_sender_closed_is_answered() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    for sequence in 1..=20 {
        submitter.submit(sequence, frame(["a"])).await;
    }
    submitter.close();
    for sequence in 1..=20 {
        assert_eq!(
            submitter
                .accepted(sequence)
                .await
                .accepted
                .unwrap()
                .tasks
                .len(),
            1
        );
    }
    submitter.end().await.unwrap();
}

#[tokio::test]
async fn the_same_key_is_the_same_task() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let keyed = |payload: &'static str| pb::SubmitFrame {
        idempotency_keys: vec!["k".to_owned()],
        ..frame([payload])
    };
    let tasks = submitter.accept(1, keyed("a")).await;
    submitter.submit(2, keyed("a")).await;
    let again = submitter.accepted(2).await.accepted.unwrap();
    assert_eq!((again.tasks, again.existing), (tasks.clone(), vec![0]));
    submitter.submit(3, keyed("b")).await;
    let other = submitter.accepted(3).await.accepted.unwrap();
    assert_eq!(other.tasks, [0]);
    assert_eq!(
        crate::support::refusal_reason(&other.refusals[0]),
        "DUPLICATE_KEY_CONFLICT"
    );
}

#[tokio::test]
async fn a_cancelled_task_fails_with_the_canceller_s_reason() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let request = pb::CancelTaskRequest {
        id: crate::support::id(tasks[0]),
        reason: "not needed".to_owned(),
    };
    let cancelled = broker
        .tasks()
        .cancel_task(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(cancelled.task.unwrap().state(), pb::TaskState::Cancelled);
    let Ended::Failure(failure) = submitter.result(tasks[0]).await else {
        panic!("a response")
    };
    assert_eq!(failure.code, Code::Cancelled as u32);
    assert_eq!(failure.state(), pb::TaskState::Cancelled);
    assert!(
        failure.message.contains("not needed"),
        "{}",
        failure.message
    );
    assert_eq!(info(&failure.details).unwrap().reason, "TASK_CANCELLED");
}

#[tokio::test]
async fn the_welcome_says_whether_acceptances_are_synced() {
    for (sync, expected) in [("always", true), ("none", false)] {
        let broker = Broker::empty(Setup::default().with("SYNC", sync)).await;
        assert_eq!(Submitter::open(&broker, 1).await.synced, expected, "{sync}");
    }
}
