//! Lists of tasks and queues: filters and pages.

use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::{
    Broker, ECHO, Scheduler, Setup, Submitter, Worker, frame, info, policy, reason,
};

/// All tasks that a filter accepts, as (id, request), by pages.
async fn all(broker: &Broker, filter: &str, page_size: i32) -> Vec<pb::Task> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let filter = filter.to_owned();
        let request = pb::ListTasksRequest {
            filter,
            page_size,
            page_token,
            view: 2,
        };
        let page = broker
            .tasks()
            .list_tasks(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.tasks.len() <= page_size as usize);
        found.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

#[tokio::test]
async fn tasks_are_listed_newest_first_by_pages() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let payloads: Vec<Vec<u8>> = (0..25).map(|n| vec![n]).collect();
    submitter.accept(1, frame(payloads.clone())).await;
    let found = all(&broker, "", 10).await;
    let requests: Vec<Vec<u8>> = found
        .iter()
        .rev()
        .map(|task| task.request.to_vec())
        .collect();
    assert_eq!(requests, payloads);
}

#[tokio::test]
async fn filters_choose() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut other = policy("/test.Echo/Other");
    other.info.as_mut().unwrap().queue = "other".to_owned();
    scheduler.declare(&broker, vec![policy(ECHO), other]).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let tasks = pb::SubmitFrame {
        methods: vec![ECHO.to_owned(), "/test.Echo/Other".to_owned()],
        method_index: vec![0, 0, 1],
        idempotency_keys: vec!["k1".to_owned(), String::new(), String::new()],
        ..frame(["a", "b", "c"])
    };
    submitter.accept(1, tasks).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let attempts = worker.attempts(2).await;
    worker.succeed(&attempts[0], b"").await;
    worker.fail(&attempts[1], Code::InvalidArgument).await;
    let cases = [
        ("state = SUCCEEDED", "a"),
        ("state = FAILED AND dead_letter = true", "b"),
        ("state != READY AND queue = test", "ba"),
        ("queue = other", "c"),
        ("method = \"/test.Echo/Say\"", "ba"),
        ("idempotency_key = k1", "a"),
        ("worker = nobody", ""),
        (
            "create_time > \"2020-01-01T00:00:00Z\" AND attempt >= 1",
            "ba",
        ),
        ("end_time < \"2020-01-01T00:00:00Z\"", ""),
    ];
    for (filter, expected) in cases {
        let found = all(&broker, filter, 10).await;
        let found: Vec<u8> = found
            .iter()
            .flat_map(|task| task.request.to_vec())
            .collect();
        assert_eq!(String::from_utf8(found).unwrap(), expected, "{filter}");
    }
    let queues = broker
        .tasks()
        .list_queues(pb::ListQueuesRequest::default())
        .await
        .unwrap();
    let queues = queues.into_inner().queues;
    let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["other", "test"]);
    assert_eq!(
        (queues[1].dead_letter_count, queues[1].worker_count),
        (1, 1)
    );
    let by_name = pb::ListQueuesRequest {
        page_size: 1,
        ..pb::ListQueuesRequest::default()
    };
    let page = broker
        .tasks()
        .list_queues(by_name)
        .await
        .unwrap()
        .into_inner();
    let rest = pb::ListQueuesRequest {
        page_size: 1,
        page_token: page.next_page_token,
    };
    let page = broker.tasks().list_queues(rest).await.unwrap().into_inner();
    assert_eq!(
        (page.queues[0].name.as_str(), page.next_page_token.as_str()),
        ("test", "")
    );
}

#[tokio::test]
async fn what_cannot_be_listed_is_refused() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, frame(["a", "b"])).await;
    let base = pb::ListTasksRequest {
        page_size: 1,
        ..pb::ListTasksRequest::default()
    };
    let page = broker
        .tasks()
        .list_tasks(base.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(!page.next_page_token.is_empty());
    let bad = [
        (
            "filter",
            pb::ListTasksRequest {
                filter: "state = GREEN".to_owned(),
                ..base.clone()
            },
        ),
        (
            "page_size",
            pb::ListTasksRequest {
                page_size: -1,
                ..base.clone()
            },
        ),
        (
            "page_token",
            pb::ListTasksRequest {
                page_token: "?".to_owned(),
                ..base.clone()
            },
        ),
        (
            "page_token",
            pb::ListTasksRequest {
                page_token: page.next_page_token,
                filter: "queue = x".to_owned(),
                ..base.clone()
            },
        ),
        (
            "view",
            pb::ListTasksRequest {
                page_size: 101,
                view: 2,
                ..base
            },
        ),
    ];
    for (field, request) in bad {
        let status = broker
            .tasks()
            .list_tasks(request.clone())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
        assert_eq!(reason(&status), "INVALID_REQUEST");
        assert_eq!(
            info(status.details()).unwrap().metadata["field"],
            field,
            "{request:?}"
        );
    }
    let request = pb::ListTasksRequest {
        filter: "queue = a OR b".to_owned(),
        ..Default::default()
    };
    let status = broker.tasks().list_tasks(request).await.unwrap_err();
    assert!(
        status.message().contains("character 11"),
        "{}",
        status.message()
    );
}
