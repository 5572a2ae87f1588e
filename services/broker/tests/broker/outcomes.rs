//! How attempts end, and what the submitter is told.

use plait::pb::google::rpc;
use plait::pb::v1 as pb;
use plait::pb::v1::attach_request::Message as Request;
use plait::pb::v1::attach_response::Message;
use prost::Message as _;
use tonic::Code;

use crate::support::{Broker, ECHO, Scheduler, Setup, Submitter, Worker, frame, id, info, policy};

#[tokio::test]
async fn a_handler_s_failure_arrives_as_it_was() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    let failure = pb::Failure {
        code: Code::InvalidArgument as u32,
        message: "no such thing, ü".to_owned(),
        // Not even a google.rpc.Status: it is the handler's own business.
        details: vec![0xff, 0, 7].into(),
        trailers: vec![pb::Metadatum {
            key: "x-why".to_owned(),
            value: "because".into(),
        }],
        ..pb::Failure::default()
    };
    worker.outcomes(vec![(&got, Err(failure.clone()))]).await;
    assert!(worker.settled().await.refused.is_empty());
    let found = submitter.failure(tasks[0]).await;
    assert_eq!(found.state(), pb::TaskState::Failed);
    assert_eq!(
        found,
        pb::Failure {
            state: found.state,
            ..failure
        }
    );
}

#[tokio::test]
async fn a_retryable_failure_is_tried_again_under_a_higher_token() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let first = worker.attempt().await;
    worker.fail(&first, Code::Unavailable).await;
    let second = worker.attempt().await;
    assert_eq!(second.task, first.task);
    assert!(second.token > first.token);
    assert_eq!(second.extra.attempt, 2);
    // The first one's token is no good any more.
    let refused = worker.succeed(&first, b"late").await.refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (refused[0].task, refused[0].token),
        (first.task, first.token)
    );
    let status = refused[0].status.clone().unwrap();
    assert_eq!(status.code, Code::Aborted as i32);
    assert_eq!(info(&status.encode_to_vec()).unwrap().reason, "LEASE_LOST");
    worker.succeed(&second, b"done").await;
    assert_eq!(submitter.response(tasks[0]).await, b"done");
}

#[tokio::test]
async fn a_task_fails_for_good_after_its_last_attempt() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    for _ in 0..3 {
        let got = worker.attempt().await;
        worker.fail(&got, Code::Internal).await;
    }
    let failure = submitter.failure(tasks[0]).await;
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Internal as u32, "it failed")
    );
}

#[tokio::test]
async fn a_server_s_pause_is_obeyed() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    submitter.accept(1, frame(["a", "b"])).await;
    let attempts = worker.attempts(2).await;
    let pause = |millis: i64| {
        let delay = prost_types::Duration {
            seconds: 0,
            nanos: (millis * 1_000_000) as i32,
        };
        let retry = rpc::RetryInfo {
            retry_delay: Some(delay),
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: retry.encode_to_vec(),
        };
        let status = rpc::Status {
            details: vec![any],
            ..rpc::Status::default()
        };
        pb::Failure {
            code: Code::Unavailable as u32,
            details: status.encode_to_vec().into(),
            ..pb::Failure::default()
        }
    };
    // Far longer than the policy's backoff of 10 ms.
    let begun = plait_broker::clock::monotonic();
    worker.outcomes(vec![(&attempts[0], Err(pause(300)))]).await;
    worker.settled().await;
    assert_eq!(worker.attempt().await.task, attempts[0].task);
    assert!(begun.elapsed().as_millis() >= 300);
    // A negative one means: do not retry.
    worker.outcomes(vec![(&attempts[1], Err(pause(-1)))]).await;
    worker.settled().await;
    let failure = submitter.failure(attempts[1].task).await;
    assert_eq!(failure.code, Code::Unavailable as u32);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_stopped() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut short = policy(ECHO);
    (short.attempt_timeout_ms, short.max_attempts) = (50, 1);
    scheduler.declare(&broker, vec![short]).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    let Message::Stop(stop) = worker.other().await.unwrap() else {
        panic!("no stop")
    };
    assert_eq!(
        (stop.entries[0].task, stop.entries[0].token),
        (got.task, got.token)
    );
    assert_eq!(stop.entries[0].reason(), pb::StopReason::AttemptTimedOut);
    let failure = submitter.failure(tasks[0]).await;
    assert_eq!(failure.code, Code::DeadlineExceeded as u32);
    assert_eq!(info(&failure.details).unwrap().reason, "ATTEMPT_TIMED_OUT");
}

#[tokio::test]
async fn a_deadline_ends_tasks_that_wait_and_tasks_that_run() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let short = || pb::SubmitFrame {
        common: Some(pb::TaskOptions {
            deadline: Some(prost_types::Duration {
                seconds: 0,
                nanos: 60_000_000,
            }),
            ..pb::TaskOptions::default()
        }),
        ..frame(["a"])
    };
    let waiting = submitter.accept(1, short()).await;
    let failure = submitter.failure(waiting[0]).await;
    assert_eq!(failure.state(), pb::TaskState::Expired);
    let found = info(&failure.details).unwrap();
    assert_eq!(
        (found.reason.as_str(), found.metadata["cause"].as_str()),
        ("TASK_EXPIRED", "BEFORE_START")
    );
    let mut worker = Worker::attach(&broker, "w").await;
    let running = submitter.accept(2, short()).await;
    let got = worker.attempt().await;
    assert!(got.timeout_ms <= 60);
    let Message::Stop(stop) = worker.other().await.unwrap() else {
        panic!("no stop")
    };
    assert_eq!(stop.entries[0].reason(), pb::StopReason::Expired);
    let failure = submitter.failure(running[0]).await;
    assert_eq!(
        info(&failure.details).unwrap().metadata["cause"],
        "WHILE_RUNNING"
    );
}

#[tokio::test]
async fn a_cancelled_attempt_is_stopped() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    let request = pb::CancelTaskRequest {
        id: id(tasks[0]),
        reason: String::new(),
    };
    broker.tasks().cancel_task(request).await.unwrap();
    let Message::Stop(stop) = worker.other().await.unwrap() else {
        panic!("no stop")
    };
    assert_eq!(stop.entries[0].reason(), pb::StopReason::Cancelled);
    // Whoever was recorded first has won.
    assert_eq!(worker.succeed(&got, b"late").await.refused.len(), 1);
    assert_eq!(
        submitter.failure(tasks[0]).await.state(),
        pb::TaskState::Cancelled
    );
}

#[tokio::test]
async fn a_response_over_the_limit_fails_at_once_and_names_the_field() {
    let setup = Setup::default().with("PAYLOAD_BYTES_MAX", 2000);
    let broker = Broker::start_with(setup).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    assert_eq!(worker.welcome.payload_bytes_max, 2000);
    let tasks = submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    worker.succeed(&got, &[0; 2001]).await;
    let failure = submitter.failure(tasks[0]).await;
    assert_eq!(failure.code, Code::InvalidArgument as u32);
    let found = info(&failure.details).unwrap();
    assert_eq!(found.reason, "TOO_LARGE");
    assert_eq!(
        (&*found.metadata["field"], &*found.metadata["size"]),
        ("response", "2001")
    );
}

#[tokio::test]
async fn the_handler_s_metadata_and_the_task_s_facts_travel_along() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let metadata = vec![
        pb::Metadatum {
            key: "traceparent".to_owned(),
            value: "00-1-2-01".into(),
        },
        pb::Metadatum {
            key: "x-bin".to_owned(),
            value: vec![0, 255].into(),
        },
    ];
    let own = pb::TaskOptions {
        metadata: metadata.clone(),
        ..pb::TaskOptions::default()
    };
    let tasks = pb::SubmitFrame {
        idempotency_keys: vec![String::new(), "key".to_owned()],
        ordering_keys: vec![String::new(), "line".to_owned()],
        options: vec![pb::IndexedOptions {
            index: 1,
            options: Some(own),
        }],
        ..frame(["a", "b"])
    };
    submitter.accept(1, tasks).await;
    let attempts = worker.attempts(2).await;
    assert_eq!(attempts[0].extra, pb::AttemptExtra::default());
    let extra = &attempts[1].extra;
    assert_eq!(extra.metadata, metadata);
    assert_eq!(
        (extra.idempotency_key.as_str(), extra.ordering_key.as_str()),
        ("key", "line")
    );
    assert_eq!(extra.attempt, 1);
    assert!(extra.create_time_ms > 1_600_000_000_000);
}

#[tokio::test]
async fn a_delay_is_kept_and_runs_once() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let delayed = pb::SubmitFrame {
        common: Some(pb::TaskOptions {
            delay: Some(prost_types::Duration {
                seconds: 0,
                nanos: 200_000_000,
            }),
            ..pb::TaskOptions::default()
        }),
        ..frame(["later"])
    };
    let begun = plait_broker::clock::monotonic();
    submitter.accept(1, delayed).await;
    submitter.accept(2, frame(["now"])).await;
    assert_eq!(worker.attempt().await.payload, b"now");
    assert_eq!(worker.attempt().await.payload, b"later");
    assert!(begun.elapsed().as_millis() >= 199);
}

#[tokio::test]
async fn progress_is_shown() {
    let broker = Broker::start().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let tasks = submitter.accept(1, frame(["a"])).await;
    let got = worker.attempt().await;
    let watched = pb::WatchTaskRequest {
        id: id(tasks[0]),
        view: 0,
    };
    let mut watch = broker
        .tasks()
        .watch_task(watched)
        .await
        .unwrap()
        .into_inner();
    let progress = pb::Progress {
        fraction: 0.5,
        message: "page 1/2".to_owned(),
    };
    let entry = pb::AttemptProgress {
        task: got.task,
        token: got.token,
        progress: Some(progress.clone()),
    };
    worker
        .send(Some(Request::Progress(pb::ProgressFrame {
            entries: vec![entry],
        })))
        .await;
    loop {
        let task = watch.message().await.unwrap().unwrap().task.unwrap();
        if task.progress.is_some() {
            assert_eq!(task.progress, Some(progress));
            return;
        }
    }
}
