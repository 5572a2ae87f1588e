//! A payload that the disk does not give back as it was written is never served (I15).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::calls::get;
use crate::support::{Broker, Setup, Submitter, Worker, frame, id, info, reason};

/// A broker that keeps no payload in memory once the log has it.
async fn forgetful() -> Broker {
    Broker::start_with(Setup::default().with("RESIDENT_BYTES_MAX", 0)).await
}

/// Flips a bit of the one place in the log where `text` is.
fn damage(dir: &Path, text: &str) {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found = 0;
    for path in paths.filter(|path| path.extension().is_some_and(|e| e == "seg")) {
        let bytes = std::fs::read(&path).unwrap();
        let places = bytes.windows(text.len()).enumerate();
        for (at, _) in places.filter(|(_, place)| *place == text.as_bytes()) {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1, "{text} is in the log once");
}

/// Checks that a read of the task is refused for the loss of this payload.
async fn check_lost(broker: &Broker, task: u64, payload: &str) {
    let status = get(broker, task).await.unwrap_err();
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::DataLoss, "PAYLOAD_LOST"),
        "{status}"
    );
    let info = info(status.details()).unwrap();
    assert_eq!(info.metadata["task"], id(task));
    assert_eq!(info.metadata["payload"], payload);
}

fn check_failure(failure: &pb::Failure) {
    assert_eq!(failure.code, Code::DataLoss as u32, "{failure:?}");
    assert_eq!(info(&failure.details).unwrap().reason, "PAYLOAD_LOST");
}

/// Submits each in a frame of its own, so that each is in another frame of the log.
async fn submit(submitter: &mut Submitter, texts: &[&str]) -> Vec<u64> {
    let mut tasks = Vec::new();
    for (sequence, text) in (submitter.last_sequence + 1..).zip(texts) {
        tasks.extend(submitter.accept(sequence, frame([text.to_string()])).await);
    }
    tasks
}

#[tokio::test]
async fn a_damaged_request_fails_its_task_and_reaches_no_worker() {
    let broker = forgetful().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = submit(&mut submitter, &["before", "damaged", "after"]).await;
    damage(broker.data_dir(), "damaged");
    let mut worker = Worker::attach(&broker, "w").await;
    let attempts = worker.attempts(2).await;
    let requests: Vec<_> = attempts.iter().map(|a| a.payload.as_slice()).collect();
    assert_eq!(requests, [&b"before"[..], b"after"]);
    check_failure(&submitter.failure(tasks[1]).await);
    // The worker hears of its own outcomes only, and goes on.
    let settled = worker.succeed(&attempts[0], b"well").await;
    assert_eq!((settled.sequence, settled.refused.len()), (1, 0));
    assert_eq!(submitter.response(tasks[0]).await, b"well");
    check_lost(&broker, tasks[1], "request").await;
    let basic = pb::GetTaskRequest {
        id: id(tasks[1]),
        ..pb::GetTaskRequest::default()
    };
    let task = broker.tasks().get_task(basic).await.unwrap().into_inner();
    let task = task.task.unwrap();
    assert_eq!((task.state(), task.attempt), (pb::TaskState::Failed, 1));
}

#[tokio::test]
async fn a_worker_whose_whole_frame_is_lost_goes_on() {
    let broker = forgetful().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let lost = submit(&mut submitter, &["damaged"]).await;
    damage(broker.data_dir(), "damaged");
    let mut worker = Worker::attach(&broker, "w").await;
    check_failure(&submitter.failure(lost[0]).await);
    let sequence = 2;
    let next = submitter.accept(sequence, frame(["next"])).await;
    let got = worker.attempt().await;
    assert_eq!(got.payload, b"next");
    worker.succeed(&got, b"well").await;
    assert_eq!(submitter.response(next[0]).await, b"well");
}

#[tokio::test]
async fn a_damaged_response_is_a_failure_to_whoever_waits() {
    let broker = forgetful().await;
    let mut first = Submitter::open(&broker, 1).await;
    let tasks = submit(&mut first, &["a", "b"]).await;
    let mut worker = Worker::attach(&broker, "w").await;
    for (attempt, response) in worker.attempts(2).await.iter().zip(["sound", "damaged"]) {
        worker.succeed(attempt, response.as_bytes()).await;
    }
    assert_eq!(first.response(tasks[1]).await, b"damaged");
    damage(broker.data_dir(), "damaged");
    let mut second = Submitter::open(&broker, 2).await;
    second.wait_for(&tasks).await;
    check_failure(&second.failure(tasks[1]).await);
    assert_eq!(second.response(tasks[0]).await, b"sound");
    check_lost(&broker, tasks[1], "response").await;
    assert_eq!(get(&broker, tasks[0]).await.unwrap().response, "sound");
}

#[tokio::test]
async fn every_task_is_served_as_it_was_or_not_at_all_after_a_restart() {
    let mut broker = forgetful().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let texts: Vec<String> = (0..8).map(|number| format!("request-{number}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let tasks = submit(&mut submitter, &texts).await;
    broker.stop_and_restart().await;
    for text in texts.iter().skip(1).step_by(2) {
        damage(broker.data_dir(), text);
    }
    for (number, (task, text)) in tasks.iter().zip(&texts).enumerate() {
        match number % 2 {
            0 => assert_eq!(get(&broker, *task).await.unwrap().request, text.as_bytes()),
            _ => check_lost(&broker, *task, "request").await,
        }
    }
}
