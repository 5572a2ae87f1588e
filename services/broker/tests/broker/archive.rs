//! Finished tasks that left memory for archive files: nobody can tell the difference.

use std::path::{Path, PathBuf};

use plait::pb::v1 as pb;
use tonic::{Code, Status};

use crate::support::{
    Broker, ECHO, Ended, Scheduler, Setup, Submitter, Worker, frame, hello, id, policy, reason,
    refusal_reason, soon,
};

/// So many finished tasks stay in memory: a file then holds an eighth of it, which is more than one block.
const IN_MEMORY: usize = 1_032;

const TASKS: usize = 3_000;

/// Tasks of a frame, and of an outcome frame.
const FRAME: usize = 250;

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "arc"));
    paths.sort();
    paths
}

/// Asks the broker about something else until the files are as wanted.
async fn until_files(broker: &Broker, wanted: impl Fn(usize) -> bool) {
    let look = async {
        while !wanted(files(broker.data_dir()).len()) {
            let all = pb::ListQueuesRequest::default();
            broker.tasks().list_queues(all).await.unwrap();
        }
    };
    soon("archiving", look).await;
}

async fn get(broker: &Broker, task: u64) -> Result<pb::Task, Status> {
    let request = pb::GetTaskRequest {
        id: id(task),
        view: pb::TaskView::Full.into(),
    };
    let found = broker.tasks().get_task(request).await?;
    Ok(found.into_inner().task.unwrap())
}

/// All tasks that a filter accepts, newest first.
async fn list(broker: &Broker, filter: &str, page_size: i32) -> Result<Vec<pb::Task>, Status> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListTasksRequest {
            filter: filter.to_owned(),
            page_size,
            page_token,
            view: pb::TaskView::Full.into(),
        };
        let page = broker.tasks().list_tasks(request).await?.into_inner();
        assert!(page.tasks.len() <= page_size as usize);
        found.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

fn payload(n: usize) -> String {
    format!("request {n}")
}

/// A frame of which every third task has a key.
fn some_keyed(from: usize) -> pb::SubmitFrame {
    let key = |n: usize| match n % 3 {
        0 => format!("k{n}"),
        _ => String::new(),
    };
    let numbers = from..from + FRAME;
    pb::SubmitFrame {
        idempotency_keys: numbers.clone().map(key).collect(),
        ..frame(numbers.map(payload))
    }
}

/// How task `n` ends: most well, some with an error that is not retried.
fn outcome(n: usize) -> Result<Vec<u8>, pb::Failure> {
    match n % 10 {
        7 => Err(pb::Failure {
            code: Code::InvalidArgument as i32 as u32,
            message: format!("bad {n}"),
            details: vec![n as u8; 9].into(),
            ..pb::Failure::default()
        }),
        _ => Ok(format!("response {n}").into_bytes()),
    }
}

/// Finished tasks of many kinds; their numbers.
async fn populate(broker: &Broker) -> Vec<u64> {
    let mut submitter = Submitter::open(broker, 1).await;
    let slots = pb::WorkerHello {
        slots: FRAME as u32,
        ..hello("w")
    };
    let mut worker = Worker::attach_as(broker, slots).await.unwrap();
    let mut tasks = Vec::new();
    for (sequence, from) in (1..).zip((0..TASKS).step_by(FRAME)) {
        let numbers = submitter.accept(sequence, some_keyed(from)).await;
        let attempts = worker.attempts(FRAME).await;
        let ended = attempts.iter().map(|got| {
            let n = from + numbers.iter().position(|task| *task == got.task).unwrap();
            (got, outcome(n))
        });
        worker.outcomes(ended.collect()).await;
        worker.settled().await;
        tasks.extend(numbers);
    }
    tasks
}

/// A broker whose oldest finished tasks are in files, their numbers, and what was told of them before they were.
async fn archived() -> (Broker, Vec<u64>, Vec<pb::Task>) {
    let mut broker = Broker::start().await;
    let tasks = populate(&broker).await;
    let before = list(&broker, "", 100).await.unwrap();
    assert_eq!((before.len(), files(broker.data_dir()).len()), (TASKS, 0));
    broker.setup = broker.setup.with("FINISHED_IN_MEMORY", IN_MEMORY);
    broker.stop_and_restart().await;
    until_files(&broker, |count| {
        count >= (TASKS - IN_MEMORY) / (IN_MEMORY / 8)
    })
    .await;
    (broker, tasks, before)
}

/// The queue's counts by state.
async fn counts(broker: &Broker) -> Vec<(i32, i64)> {
    let name = "test".to_owned();
    let queue = broker.tasks().get_queue(pb::GetQueueRequest { name }).await;
    let queue = queue.unwrap().into_inner().queue.unwrap();
    let mut counts: Vec<_> = queue.counts.iter().map(|c| (c.state, c.count)).collect();
    counts.push((-1, queue.dead_letter_count));
    counts
}

#[tokio::test]
async fn archived_tasks_are_read_as_if_they_were_in_memory() {
    let (mut broker, tasks, before) = archived().await;
    for round in 0..3 {
        assert!(list(&broker, "", 100).await.unwrap() == before, "{round}");
        let failed = list(&broker, "state = FAILED", 7).await.unwrap();
        let is_failed = |task: &&pb::Task| task.state() == pb::TaskState::Failed;
        assert!(failed.iter().eq(before.iter().filter(is_failed)), "{round}");
        for at in (0..TASKS).step_by(97) {
            let expected = &before[TASKS - 1 - at];
            assert_eq!(get(&broker, tasks[at]).await.unwrap(), *expected);
        }
        let ids: Vec<String> = tasks[..99].iter().rev().map(|task| id(*task)).collect();
        let request = pb::BatchGetTasksRequest {
            ids: ids.clone(),
            view: pb::TaskView::Full.into(),
        };
        let batch = broker.tasks().batch_get_tasks(request).await.unwrap();
        let batch = batch.into_inner().tasks;
        assert!(batch.iter().eq(before[TASKS - 99..].iter()), "{round}");
        let unknown = get(&broker, tasks[0] + 1_000_000).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        assert_eq!(
            counts(&broker).await,
            [
                (pb::TaskState::Succeeded.into(), 2_700),
                (pb::TaskState::Failed.into(), 300),
                (-1, 300)
            ]
        );
        match round {
            0 => broker.crash_and_restart().await,
            _ => broker.stop_and_restart().await,
        }
    }
}

#[tokio::test]
async fn who_waits_watches_or_cancels_hears_of_an_archived_task() {
    let (broker, tasks, before) = archived().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter
        .wait_for(&[tasks[3], tasks[7], tasks[2_999]])
        .await;
    assert_eq!(submitter.response(tasks[3]).await, b"response 3");
    assert_eq!(submitter.response(tasks[2_999]).await, b"response 2999");
    let failure = submitter.failure(tasks[7]).await;
    assert_eq!(
        (&*failure.message, &failure.details[..]),
        ("bad 7", &[7; 9][..])
    );
    let watch = pb::WatchTaskRequest {
        id: id(tasks[5]),
        view: pb::TaskView::Full.into(),
    };
    let mut watch = broker.tasks().watch_task(watch).await.unwrap().into_inner();
    let seen = soon("the task", watch.message()).await.unwrap().unwrap();
    assert_eq!(seen.task.unwrap(), before[TASKS - 1 - 5]);
    assert!(soon("the end", watch.message()).await.unwrap().is_none());
    let cancel = pb::CancelTaskRequest {
        id: id(tasks[5]),
        reason: String::new(),
    };
    let cancelled = broker.tasks().cancel_task(cancel).await.unwrap();
    let cancelled = cancelled.into_inner().task.unwrap();
    assert_eq!(cancelled.state(), pb::TaskState::Succeeded);
}

#[tokio::test]
async fn the_key_of_an_archived_task_stands_for_it() {
    let (mut broker, tasks, _) = archived().await;
    for round in 0..2 {
        let mut submitter = Submitter::open(&broker, 10 + round).await;
        let again = pb::SubmitFrame {
            idempotency_keys: vec!["k0".to_owned(), "k9".to_owned(), "k2997".to_owned()],
            ..frame([payload(0), payload(9), payload(2_997)])
        };
        let accepted = {
            submitter.submit(1, again).await;
            submitter.accepted(1).await.accepted.unwrap()
        };
        assert_eq!(accepted.tasks, [tasks[0], tasks[9], tasks[2_997]]);
        assert_eq!(accepted.existing, [0, 1, 2]);
        assert_eq!(submitter.response(tasks[9]).await, b"response 9");
        let other = pb::SubmitFrame {
            idempotency_keys: vec!["k0".to_owned()],
            ..frame(["another request"])
        };
        submitter.submit(2, other).await;
        let accepted = submitter.accepted(2).await.accepted.unwrap();
        let refusal = refusal_reason(&accepted.refusals[0]);
        assert_eq!(refusal, "DUPLICATE_KEY_CONFLICT");
        // From a snapshot, which knows keys of archived tasks by their hashes.
        broker.stop_and_restart().await;
    }
}

async fn redrive(broker: &Broker, request: pb::RedriveTasksRequest) -> Result<i64, Status> {
    let redriven = broker.tasks().redrive_tasks(request).await?;
    Ok(redriven.into_inner().redriven_count)
}

#[tokio::test]
async fn an_archived_failed_task_is_run_again_and_told_once() {
    let (mut broker, tasks, before) = archived().await;
    let some = |validate_only| pb::RedriveTasksRequest {
        ids: vec![id(tasks[7]), id(tasks[8]), id(tasks[17]), id(tasks[2_997])],
        validate_only,
        ..pb::RedriveTasksRequest::default()
    };
    assert_eq!(redrive(&broker, some(true)).await.unwrap(), 3);
    assert_eq!(get(&broker, tasks[7]).await.unwrap(), before[TASKS - 1 - 7]);
    assert_eq!(redrive(&broker, some(false)).await.unwrap(), 3);
    assert_eq!(
        redrive(&broker, some(false)).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    broker.crash_and_restart().await;
    let mut worker = Worker::attach(&broker, "w").await;
    for got in worker.attempts(3).await {
        assert!(worker.succeed(&got, b"at last").await.refused.is_empty());
    }
    drop(worker);
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.wait_for(&[tasks[7]]).await;
    assert_eq!(
        submitter.result(tasks[7]).await,
        Ended::Response(b"at last".to_vec())
    );
    let all = list(&broker, "", 100).await.unwrap();
    let ids: Vec<&str> = all.iter().map(|task| task.id.as_str()).collect();
    let expected: Vec<String> = tasks.iter().rev().map(|task| id(*task)).collect();
    assert_eq!(ids, expected);
    let matching = pb::RedriveTasksRequest {
        filter: "state = FAILED".to_owned(),
        ..pb::RedriveTasksRequest::default()
    };
    assert_eq!(redrive(&broker, matching).await.unwrap(), 297);
    assert!(
        list(&broker, "state = FAILED", 100)
            .await
            .unwrap()
            .is_empty()
    );
    broker.stop_and_restart().await;
    assert!(
        list(&broker, "state = FAILED", 100)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        list(&broker, "state = READY", 100).await.unwrap().len(),
        297
    );
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_told_of_and_never_served() {
    let (mut broker, tasks, before) = archived().await;
    let dir = broker.data_dir().to_owned();
    let paths = files(&dir);
    // A block of the first file, the index of the second; the third is gone.
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = if at == 0 { bytes.len() - 30 } else { at };
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&paths[0], 200);
    flip(&paths[1], 0);
    std::fs::remove_file(&paths[2]).unwrap();
    broker.crash_and_restart().await;
    let mut lost = 0;
    for (at, task) in tasks.iter().enumerate() {
        match get(&broker, *task).await {
            Ok(task) => assert_eq!(task, before[TASKS - 1 - at]),
            Err(status) => {
                assert_eq!(
                    (status.code(), &*reason(&status)),
                    (Code::DataLoss, "PAYLOAD_LOST")
                );
                lost += 1;
            }
        }
    }
    // Two of three files are lost whole, and a block of one. Which tasks they hold depends on when each ended.
    let of_a_file = IN_MEMORY / 8;
    let of_three = 2 * of_a_file + 1..3 * of_a_file;
    assert!(of_three.contains(&lost), "{lost}");
    let status = list(&broker, "", 100).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.wait_for(&[tasks[0], tasks[2_999]]).await;
    assert_eq!(
        submitter.failure(tasks[0]).await.code,
        Code::DataLoss as u32
    );
    assert_eq!(submitter.response(tasks[2_999]).await, b"response 2999");
    let ids = vec![id(tasks[7])];
    let request = pb::RedriveTasksRequest {
        ids,
        ..pb::RedriveTasksRequest::default()
    };
    let status = redrive(&broker, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
}

#[tokio::test]
async fn files_and_their_tasks_are_gone_when_retention_is_over() {
    let setup = Setup::default().with("FINISHED_IN_MEMORY", 16);
    let mut broker = Broker::empty(setup).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut kept = policy(ECHO);
    kept.retention_ms = 4_000;
    kept.dead_letter_retention_ms = 4_000;
    kept.idempotency_window_ms = 4_000;
    scheduler.declare(&broker, vec![kept]).await;
    let tasks = populate(&broker).await;
    until_files(&broker, |count| count > 0).await;
    for at in [0, 1_000, 2_000, 2_999] {
        let gone = async { while get(&broker, tasks[at]).await.is_ok() {} };
        soon("the end of retention", gone).await;
        let status = get(&broker, tasks[at]).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    until_files(&broker, |count| count == 0).await;
    broker.crash_and_restart().await;
    let status = get(&broker, tasks[0]).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
