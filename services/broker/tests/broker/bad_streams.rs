//! What opens or runs a stream, and what a unary call asks, is checked, and a bad one is refused by name.

use plait::pb::v1 as pb;
use plait::pb::v1::attach_request::Message as FromWorker;
use plait::pb::v1::submit_stream_request::Message as FromSubmitter;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::{Broker, Submitter, Worker, check_refusal as check, frame, hello};

#[tokio::test]
async fn a_submitter_must_begin_well() {
    let broker = Broker::start().await;
    let open = async |first: FromSubmitter| {
        let (requests, queue) = tokio::sync::mpsc::channel(1);
        let request = pb::SubmitStreamRequest {
            message: Some(first),
        };
        requests.send(request).await.unwrap();
        let stream = ReceiverStream::new(queue);
        let mut answers = broker
            .tasks()
            .submit_stream(stream)
            .await
            .unwrap()
            .into_inner();
        answers.message().await.unwrap_err()
    };
    let short = pb::SessionHello {
        session: vec![1; 15].into(),
        client: String::new(),
    };
    let status = open(FromSubmitter::Hello(short)).await;
    check(&status, "INVALID_REQUEST", "hello.session");
    let status = open(FromSubmitter::Await(pb::AwaitFrame::default())).await;
    check(&status, "INVALID_REQUEST", "hello");
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.submit(0, frame(["a"])).await;
    check(
        &submitter.end().await.unwrap_err(),
        "INVALID_REQUEST",
        "submit.sequence",
    );
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended() {
    let broker = Broker::start().await;
    let (_requests, queue) = tokio::sync::mpsc::channel::<pb::SubmitStreamRequest>(1);
    let stream = ReceiverStream::new(queue);
    let mut answers = broker
        .tasks()
        .submit_stream(stream)
        .await
        .unwrap()
        .into_inner();
    let status = crate::support::soon("an end", answers.message())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "no hello came")
    );
}

#[tokio::test]
async fn a_worker_must_begin_well() {
    let broker = Broker::start().await;
    let base = || hello("w");
    let cases = [
        (
            "hello.worker",
            pb::WorkerHello {
                worker: String::new(),
                ..base()
            },
        ),
        (
            "hello.worker",
            pb::WorkerHello {
                worker: "a b".to_owned(),
                ..base()
            },
        ),
        (
            "hello.worker",
            pb::WorkerHello {
                worker: "w".repeat(65),
                ..base()
            },
        ),
        (
            "hello.methods",
            pb::WorkerHello {
                methods: Vec::new(),
                ..base()
            },
        ),
        (
            "hello.methods[0]",
            pb::WorkerHello {
                methods: vec!["Say".to_owned()],
                ..base()
            },
        ),
        ("hello.slots", pb::WorkerHello { slots: 0, ..base() }),
    ];
    for (field, wrong) in cases {
        let status = Worker::attach_as(&broker, wrong).await.err().unwrap();
        check(&status, "INVALID_REQUEST", field);
    }
    let long_host = format!("{}:1", "h".repeat(254));
    for endpoint in [
        "host",
        ":1",
        "host:",
        "host:0",
        "host:65536",
        "host:+1",
        "a b:1",
        "::1:1",
        "[]:1",
        &long_host,
    ] {
        let wrong = pb::WorkerHello {
            endpoint: endpoint.to_owned(),
            ..base()
        };
        let status = Worker::attach_as(&broker, wrong).await.err().unwrap();
        check(&status, "INVALID_REQUEST", "hello.endpoint");
    }
    for endpoint in ["localhost:1", "10.0.0.1:65535", "[::1]:50051"] {
        let right = pb::WorkerHello {
            endpoint: endpoint.to_owned(),
            ..base()
        };
        Worker::attach_as(&broker, right).await.unwrap();
    }
    let long = pb::WorkerHello {
        version: "v".repeat(1025),
        ..base()
    };
    let status = Worker::attach_as(&broker, long).await.err().unwrap();
    check(&status, "TOO_LARGE", "hello.version");
}

#[tokio::test]
async fn what_a_worker_says_must_fit() {
    let broker = Broker::start().await;
    let outcome = |tasks, tokens, payloads: usize, failures| pb::OutcomeFrame {
        sequence: 1,
        tasks,
        tokens,
        payloads: vec![bytes::Bytes::new(); payloads],
        failures,
    };
    let failure = vec![pb::Failure {
        index: 1,
        code: 2,
        ..pb::Failure::default()
    }];
    let cases = [
        (
            "outcomes.tokens",
            FromWorker::Outcomes(outcome(vec![1], vec![], 1, vec![])),
        ),
        (
            "outcomes.payloads",
            FromWorker::Outcomes(outcome(vec![1], vec![1], 0, vec![])),
        ),
        (
            "outcomes.failures.index",
            FromWorker::Outcomes(outcome(vec![1], vec![1], 1, failure)),
        ),
        (
            "hand_back.tokens",
            FromWorker::HandBack(pb::HandBackFrame {
                tasks: vec![1],
                tokens: vec![],
            }),
        ),
        (
            "suspend.tokens",
            FromWorker::Suspend(pb::SuspendFrame {
                tasks: vec![1],
                tokens: vec![1, 2],
            }),
        ),
        (
            "resize.slots",
            FromWorker::Resize(pb::WorkerResize { slots: 0 }),
        ),
        ("hello", FromWorker::Hello(hello("w"))),
    ];
    for (field, wrong) in cases {
        let mut worker = Worker::attach(&broker, "w").await;
        worker.send(Some(wrong)).await;
        check(&worker.end().await.unwrap_err(), "INVALID_REQUEST", field);
    }
}

#[tokio::test]
async fn unary_calls_are_checked() {
    let broker = Broker::start().await;
    let mut tasks = broker.tasks();
    let get = pb::GetTaskRequest {
        id: "7".to_owned(),
        view: 0,
    };
    check(
        &tasks.get_task(get).await.unwrap_err(),
        "INVALID_REQUEST",
        "id",
    );
    let many = pb::BatchGetTasksRequest {
        ids: vec![String::new(); 1001],
        view: 0,
    };
    check(
        &tasks.batch_get_tasks(many).await.unwrap_err(),
        "INVALID_REQUEST",
        "ids",
    );
    let bad = pb::BatchGetTasksRequest {
        ids: vec!["t1".to_owned()],
        view: 0,
    };
    check(
        &tasks.batch_get_tasks(bad).await.unwrap_err(),
        "INVALID_REQUEST",
        "ids[0]",
    );
    let none = pb::RedriveTasksRequest::default();
    check(
        &tasks.redrive_tasks(none).await.unwrap_err(),
        "INVALID_REQUEST",
        "ids",
    );
    let both = pb::RedriveTasksRequest {
        ids: vec![crate::support::id(1)],
        filter: "queue = a".to_owned(),
        validate_only: false,
    };
    check(
        &tasks.redrive_tasks(both).await.unwrap_err(),
        "INVALID_REQUEST",
        "filter",
    );
    let long = pb::CancelTaskRequest {
        id: crate::support::id(1),
        reason: "r".repeat(1025),
    };
    check(
        &tasks.cancel_task(long).await.unwrap_err(),
        "TOO_LARGE",
        "reason",
    );
    let queue = pb::PauseQueueRequest {
        name: "a/b".to_owned(),
        reason: String::new(),
    };
    check(
        &tasks.pause_queue(queue).await.unwrap_err(),
        "INVALID_REQUEST",
        "name",
    );
    let submit = pb::SubmitTasksRequest {
        tasks: Some(frame(["a"])),
        request_id: "r".repeat(65),
        validate_only: false,
    };
    check(
        &tasks.submit_tasks(submit).await.unwrap_err(),
        "INVALID_REQUEST",
        "request_id",
    );
    let mut contracts = broker.contracts();
    let announce = pb::AnnounceContractRequest::default();
    let status = contracts.announce_contract(announce).await.unwrap_err();
    check(&status, "INVALID_REQUEST", "descriptor_set");
    let announce = pb::AnnounceContractRequest {
        descriptor_set: vec![1].into(),
        services: vec!["a/b".to_owned()],
        validate_only: false,
        ..pb::AnnounceContractRequest::default()
    };
    let status = contracts.announce_contract(announce).await.unwrap_err();
    check(&status, "INVALID_REQUEST", "services[0]");
    let resolve = pb::ResolveMethodsRequest {
        methods: vec![String::new(); 1001],
    };
    let status = contracts.resolve_methods(resolve).await.unwrap_err();
    check(&status, "INVALID_REQUEST", "methods");
}
