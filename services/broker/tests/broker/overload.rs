//! Bounded memory: slow readers are cut, full queues refuse, a full inbox slows its senders.

use plait::pb::google::rpc;
use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::{
    Broker, Ended, Setup, Submitter, Worker, detail, frame, reason, refusal_reason,
};

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_again() {
    let broker = Broker::start_with(Setup::default().with("QUEUE_TASKS_MAX", 5)).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.submit(1, frame((0..7).map(|n| vec![n]))).await;
    let accepted = submitter.accepted(1).await.accepted.unwrap();
    assert_eq!(accepted.tasks.iter().filter(|task| **task != 0).count(), 5);
    assert_eq!(accepted.refusals.len(), 2);
    let refusal = &accepted.refusals[0];
    assert_eq!(refusal_reason(refusal), "QUEUE_FULL");
    let status = refusal.status.as_ref().unwrap();
    assert_eq!(status.code, Code::ResourceExhausted as i32);
    let retry: rpc::RetryInfo = detail(status, "google.rpc.RetryInfo").unwrap();
    assert!(retry.retry_delay.is_some());
    // Room again when one has ended.
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempt().await;
    worker.succeed(&got, b"").await;
    assert_ne!(submitter.accept(2, frame(["again"])).await, [0]);
}

#[tokio::test]
async fn a_slow_reader_is_cut_and_loses_nothing() {
    let setup = Setup::default().with("OUTBOUND_BYTES_MAX", 1 << 20);
    let broker = Broker::start_with(setup).await;
    let mut slow = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    // The stream's window is 4 MiB or less and nobody reads it.
    let tasks = slow.accept(1, frame((0..40).map(|n| vec![n]))).await;
    for _ in 0..40 {
        let got = worker.attempt().await;
        worker.succeed(&got, &vec![got.payload[0]; 500_000]).await;
    }
    let status = slow.end().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "SLOW_READER");
    let mut again = Submitter::open(&broker, 1).await;
    for (n, task) in tasks.iter().enumerate() {
        again.wait_for(&[*task]).await;
        assert_eq!(again.response(*task).await, vec![n as u8; 500_000]);
    }
}

#[tokio::test]
async fn a_flood_is_slowed_and_taken_in_full() {
    let setup = Setup::default()
        .with("INBOX_BYTES_MAX", 1 << 20)
        .with("RESIDENT_BYTES_MAX", 0);
    let broker = Broker::start_with(setup).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    // Far more than the inbox bears at once.
    for sequence in 1..=40 {
        let large = frame((0..4).map(|n| vec![n; 200_000]));
        submitter.submit(sequence, large).await;
    }
    let mut tasks = Vec::new();
    for sequence in 1..=40 {
        tasks.extend(submitter.accepted(sequence).await.accepted.unwrap().tasks);
    }
    assert!(tasks.iter().all(|task| *task != 0));
    let mut worker = Worker::attach(&broker, "w").await;
    for _ in 0..tasks.len() {
        // Nothing stays in memory: each request is read from the log.
        let got = worker.attempt().await;
        assert_eq!(got.payload, vec![got.payload[0]; 200_000]);
        worker.succeed(&got, &got.payload[..10]).await;
    }
    for (n, task) in tasks.iter().enumerate() {
        assert_eq!(
            submitter.result(*task).await,
            Ended::Response(vec![(n % 4) as u8; 10])
        );
    }
}

#[tokio::test]
async fn hundreds_of_tasks_come_in_frames_of_bounded_length() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let many = pb::WorkerHello {
        slots: 2000,
        ..crate::support::hello("w")
    };
    let mut worker = Worker::attach_as(&broker, many).await.unwrap();
    let tasks = submitter.accept(1, frame(vec!["x"; 2000])).await;
    let attempts = worker.attempts(2000).await;
    let ended = attempts
        .iter()
        .map(|got| (got, Ok(b"y".to_vec())))
        .collect();
    worker.outcomes(ended).await;
    assert!(worker.settled().await.refused.is_empty());
    for task in tasks {
        assert_eq!(submitter.response(task).await, b"y");
    }
}
