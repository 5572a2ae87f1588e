//! What was acknowledged is there again: from the log, and from snapshots.

use std::path::Path;

use plait::pb::v1 as pb;

use crate::support::{Broker, Setup, Submitter, Worker, frame, id};

fn files(dir: &Path, suffix: &str) -> usize {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(suffix))
        .count()
}

async fn states(broker: &Broker, tasks: &[u64]) -> Vec<pb::TaskState> {
    let ids = tasks.iter().map(|task| id(*task)).collect();
    let request = pb::BatchGetTasksRequest { ids, view: 0 };
    let found = broker
        .tasks()
        .batch_get_tasks(request)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    found.iter().map(pb::Task::state).collect()
}

/// Tasks in every state that a restart must keep; answers with their numbers.
async fn populate(broker: &Broker) -> Vec<u64> {
    let mut submitter = Submitter::open(broker, 1).await;
    let mut worker = Worker::attach(broker, "w").await;
    let mut tasks = submitter
        .accept(1, frame(["done", "failed", "cancelled"]))
        .await;
    let attempts = worker.attempts(3).await;
    worker.succeed(&attempts[0], b"the response").await;
    worker.fail(&attempts[1], tonic::Code::DataLoss).await;
    let cancel = pb::CancelTaskRequest {
        id: id(tasks[2]),
        reason: "why".to_owned(),
    };
    broker.tasks().cancel_task(cancel).await.unwrap();
    drop(worker);
    let delayed = pb::SubmitFrame {
        common: Some(pb::TaskOptions {
            delay: Some(prost_types::Duration {
                seconds: 50,
                nanos: 0,
            }),
            metadata: vec![pb::Metadatum {
                key: "x-a".to_owned(),
                value: "b".into(),
            }],
            ..pb::TaskOptions::default()
        }),
        ..frame(["delayed"])
    };
    tasks.extend(submitter.accept(2, delayed).await);
    tasks.extend(submitter.accept(3, frame(["ready"])).await);
    tasks
}

async fn check(broker: &Broker, tasks: &[u64]) {
    use pb::TaskState::{Cancelled, Failed, Ready, Scheduled, Succeeded};
    assert_eq!(
        states(broker, tasks).await,
        [Succeeded, Failed, Cancelled, Scheduled, Ready]
    );
    let get = async |task: u64| {
        let request = pb::GetTaskRequest {
            id: id(task),
            view: pb::TaskView::Full.into(),
        };
        broker
            .tasks()
            .get_task(request)
            .await
            .unwrap()
            .into_inner()
            .task
            .unwrap()
    };
    let done = get(tasks[0]).await;
    assert_eq!(
        (done.request.as_ref(), done.response.as_ref()),
        (&b"done"[..], &b"the response"[..])
    );
    assert_eq!(get(tasks[1]).await.error.unwrap().message, "it failed");
    let delayed = get(tasks[3]).await;
    assert_eq!(
        (delayed.request.as_ref(), delayed.metadata[0].key.as_str()),
        (&b"delayed"[..], "x-a")
    );
    let mut submitter = Submitter::open(broker, 1).await;
    assert_eq!(submitter.last_sequence, 3);
    assert_eq!(
        submitter
            .accept(1, frame(["done", "failed", "cancelled"]))
            .await,
        tasks[..3]
    );
}

#[tokio::test]
async fn everything_is_there_after_kill_9() {
    let mut broker = Broker::start().await;
    let tasks = populate(&broker).await;
    broker.crash_and_restart().await;
    assert_eq!(files(broker.data_dir(), ".snap"), 0);
    check(&broker, &tasks).await;
}

#[tokio::test]
async fn everything_is_there_after_an_orderly_end_from_a_snapshot() {
    let mut broker = Broker::start().await;
    let tasks = populate(&broker).await;
    broker.stop_and_restart().await;
    assert_eq!(files(broker.data_dir(), ".snap"), 1);
    check(&broker, &tasks).await;
    broker.crash_and_restart().await;
    check(&broker, &tasks).await;
    // An end with nothing new takes no snapshot that says the same again.
    broker.stop_and_restart().await;
    broker.stop_and_restart().await;
    assert!(files(broker.data_dir(), ".snap") <= 2);
    check(&broker, &tasks).await;
}

#[tokio::test]
async fn snapshots_are_taken_on_the_way_and_the_log_stays_short() {
    let setup = Setup::default().with("SNAPSHOT_BYTES", 1 << 20);
    let mut broker = Broker::start_with(setup).await;
    let kept = populate(&broker).await;
    let mut submitter = Submitter::open(&broker, 2).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let ready = worker.attempt().await;
    assert_eq!(ready.payload, b"ready");
    // 40 MB go through; the segments grow to 64 MiB, so what is released shows by the first ones being gone.
    for sequence in 1..=40 {
        let tasks = submitter
            .accept(sequence, frame(vec![vec![7; 250_000]; 4]))
            .await;
        for _ in &tasks {
            let got = worker.attempt().await;
            worker.succeed(&got, b"").await;
        }
        for task in tasks {
            submitter.response(task).await;
        }
    }
    assert!(files(broker.data_dir(), ".snap") > 0);
    worker.fail(&ready, tonic::Code::Unavailable).await;
    drop(worker);
    broker.crash_and_restart().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.wait_for(&kept[..1]).await;
    assert_eq!(submitter.response(kept[0]).await, b"the response");
    let found = states(&broker, &kept).await;
    assert_eq!(
        found[..2],
        [pb::TaskState::Succeeded, pb::TaskState::Failed]
    );
}

#[tokio::test]
async fn a_directory_has_one_broker() {
    let broker = Broker::start().await;
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_plait-broker"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(broker.data_dir())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("is locked by process"), "{said}");
}
