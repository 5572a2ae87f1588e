//! Reading, watching, cancelling and redriving single tasks.

use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::calls::{get, submit, until};
use crate::support::{Broker, Submitter, Worker, frame, id, info, reason};

#[tokio::test]
async fn a_task_shows_its_life() {
    let broker = Broker::start().await;
    let metadata = vec![pb::Metadatum {
        key: "x-a".to_owned(),
        value: "b".into(),
    }];
    let common = pb::TaskOptions {
        metadata: metadata.clone(),
        ..pb::TaskOptions::default()
    };
    let tasks = pb::SubmitFrame {
        common: Some(common),
        ..frame(["a"])
    };
    let task = submit(&broker, "", false, tasks).await.unwrap().tasks[0];
    let found = get(&broker, task).await.unwrap();
    assert_eq!(found.state(), pb::TaskState::Ready);
    assert_eq!(
        (found.request.as_ref(), found.request_size),
        (b"a".as_slice(), 1)
    );
    assert_eq!(found.metadata, metadata);
    assert_eq!((found.queue.as_str(), found.max_attempts), ("test", 3));
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempt().await;
    // It is RUNNING once the worker's acknowledgement is in, which a watch tells.
    let running = until(&broker, task, pb::TaskState::Running).await;
    assert_eq!(running.worker, "w");
    worker.succeed(&got, b"done").await;
    let done = get(&broker, task).await.unwrap();
    assert_eq!(
        (done.state(), done.response.as_ref()),
        (pb::TaskState::Succeeded, b"done".as_slice())
    );
    let causes: Vec<&str> = done
        .events
        .iter()
        .map(|event| event.cause.as_str())
        .collect();
    assert_eq!(causes, ["SUBMITTED", "STARTED", "COMPLETED"]);
    assert!(done.end_time.is_some() && done.start_time.is_none());
    let basic = pb::GetTaskRequest {
        id: id(task),
        view: 0,
    };
    let basic = broker
        .tasks()
        .get_task(basic)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert!(basic.request.is_empty() && basic.events.is_empty() && basic.request_size == 1);
}

#[tokio::test]
async fn a_task_that_is_unknown_is_not_found() {
    let broker = Broker::start().await;
    let status = get(&broker, 77).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "TASK_NOT_FOUND")
    );
    assert_eq!(info(status.details()).unwrap().metadata["task"], id(77));
    let ids = vec![id(77)];
    let batch = pb::BatchGetTasksRequest { ids, view: 0 };
    let status = broker.tasks().batch_get_tasks(batch).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let watch = pb::WatchTaskRequest {
        id: id(77),
        view: 0,
    };
    let mut watch = broker.tasks().watch_task(watch).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap_err().code(), Code::NotFound);
    let cancel = pb::CancelTaskRequest {
        id: id(77),
        reason: String::new(),
    };
    let status = broker.tasks().cancel_task(cancel).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn several_tasks_are_read_in_the_order_asked_for() {
    let broker = Broker::start().await;
    let tasks = submit(&broker, "", false, frame(["a", "b"]))
        .await
        .unwrap()
        .tasks;
    let ids = vec![id(tasks[1]), id(tasks[0])];
    let request = pb::BatchGetTasksRequest {
        ids: ids.clone(),
        view: pb::TaskView::Full.into(),
    };
    let found = broker
        .tasks()
        .batch_get_tasks(request)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(
        found.iter().map(|task| task.id.clone()).collect::<Vec<_>>(),
        ids
    );
    assert_eq!(found[0].request.as_ref(), b"b");
}

#[tokio::test]
async fn a_watch_tells_every_change_until_the_end() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let task = submitter.accept(1, frame(["a"])).await[0];
    let request = pb::WatchTaskRequest {
        id: id(task),
        view: pb::TaskView::Full.into(),
    };
    let mut watch = broker
        .tasks()
        .watch_task(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap().task.unwrap();
    assert_eq!(first.state(), pb::TaskState::Ready);
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempt().await;
    worker.succeed(&got, b"done").await;
    let mut states = vec![first.state()];
    let mut last = first;
    while let Some(change) = watch.message().await.unwrap() {
        last = change.task.unwrap();
        states.push(last.state());
    }
    states.dedup();
    use pb::TaskState::{Ready, Running, Succeeded};
    assert_eq!(states, [Ready, Running, Succeeded]);
    assert_eq!(last.response.as_ref(), b"done");
    // A task that is final already is told once.
    let request = pb::WatchTaskRequest {
        id: id(task),
        view: 0,
    };
    let mut watch = broker
        .tasks()
        .watch_task(request)
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
    assert!(watch.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_cancelled_task_never_starts() {
    let broker = Broker::start().await;
    let tasks = submit(&broker, "", false, frame(["a", "b"]))
        .await
        .unwrap()
        .tasks;
    let cancel = pb::CancelTaskRequest {
        id: id(tasks[0]),
        reason: "by test".to_owned(),
    };
    let found = broker
        .tasks()
        .cancel_task(cancel.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.task.unwrap().state(), pb::TaskState::Cancelled);
    let mut worker = Worker::attach(&broker, "w").await;
    let got = worker.attempt().await;
    assert_eq!(got.task, tasks[1]);
    worker.succeed(&got, b"").await;
    // Cancelling what is final changes nothing and says so.
    let again = pb::CancelTaskRequest {
        id: id(tasks[1]),
        ..cancel
    };
    let found = broker
        .tasks()
        .cancel_task(again)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.task.unwrap().state(), pb::TaskState::Succeeded);
}

#[tokio::test]
async fn a_failed_task_is_run_again_under_its_own_id() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a", "b", "c"])).await;
    for got in worker.attempts(3).await {
        worker.fail(&got, Code::InvalidArgument).await;
    }
    let redrive = |ids: &[u64], filter: &str, validate_only| pb::RedriveTasksRequest {
        ids: ids.iter().map(|task| id(*task)).collect(),
        filter: filter.to_owned(),
        validate_only,
    };
    let mut client = broker.tasks();
    let mut count = async |request| {
        client
            .redrive_tasks(request)
            .await
            .unwrap()
            .into_inner()
            .redriven_count
    };
    assert_eq!(count(redrive(&[], "queue = test", true)).await, 3);
    assert_eq!(
        get(&broker, tasks[0]).await.unwrap().state(),
        pb::TaskState::Failed
    );
    assert_eq!(count(redrive(&tasks[..1], "", false)).await, 1);
    let again = worker.attempt().await;
    assert_eq!(
        (again.task, again.payload.as_slice()),
        (tasks[0], b"a".as_slice())
    );
    worker.succeed(&again, b"done").await;
    assert_eq!(
        count(redrive(&[], "queue = test AND dead_letter = true", false)).await,
        2
    );
    for got in worker.attempts(2).await {
        worker.succeed(&got, b"done").await;
    }
    let mut client = broker.tasks();
    let status = client
        .redrive_tasks(redrive(&tasks[..1], "", false))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "STATE_CONFLICT")
    );
    assert_eq!(
        info(status.details()).unwrap().metadata["state"],
        "SUCCEEDED"
    );
}
