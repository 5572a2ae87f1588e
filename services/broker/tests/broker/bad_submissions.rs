//! Every submission is checked, and a bad one is refused by name. The broker goes on.

use plait::pb::v1 as pb;
use prost::Message as _;
use tonic::Status;

use crate::support::{
    Broker, Setup, Submitter, check_refusal as check, frame, info, refusal_reason,
};

async fn submit(broker: &Broker, tasks: pb::SubmitFrame) -> Result<pb::AcceptedFrame, Status> {
    let request = pb::SubmitTasksRequest {
        tasks: Some(tasks),
        ..Default::default()
    };
    Ok(broker
        .tasks()
        .submit_tasks(request)
        .await?
        .into_inner()
        .accepted
        .unwrap())
}

/// Why the first task of a frame is refused.
async fn refused(broker: &Broker, tasks: pb::SubmitFrame) -> Status {
    let accepted = submit(broker, tasks).await.unwrap();
    let status = accepted.refusals[0].status.as_ref().unwrap();
    let details = status.encode_to_vec().into();
    Status::with_details(status.code.into(), &status.message, details)
}

fn options(options: pb::TaskOptions) -> pb::SubmitFrame {
    pb::SubmitFrame {
        common: Some(options),
        ..frame(["a"])
    }
}

#[tokio::test]
async fn frames_that_do_not_fit_are_refused_as_a_whole() {
    let broker = Broker::start().await;
    let texts = |count| vec![String::new(); count];
    let two = || frame(["a", "b"]);
    let indexed = |index| pb::IndexedOptions {
        index,
        options: None,
    };
    let cases = [
        (
            "tasks.payloads",
            pb::SubmitFrame {
                payloads: Vec::new(),
                ..two()
            },
        ),
        ("tasks.payloads", frame(vec!["x"; 4097])),
        (
            "tasks.method_index",
            pb::SubmitFrame {
                method_index: vec![0; 3],
                ..two()
            },
        ),
        (
            "tasks.method_index[1]",
            pb::SubmitFrame {
                method_index: vec![0, 1],
                ..two()
            },
        ),
        (
            "tasks.method_index[0]",
            pb::SubmitFrame {
                methods: Vec::new(),
                ..two()
            },
        ),
        (
            "tasks.idempotency_keys",
            pb::SubmitFrame {
                idempotency_keys: texts(1),
                ..two()
            },
        ),
        (
            "tasks.ordering_keys",
            pb::SubmitFrame {
                ordering_keys: texts(3),
                ..two()
            },
        ),
        (
            "tasks.options",
            pb::SubmitFrame {
                options: vec![indexed(2)],
                ..two()
            },
        ),
        (
            "tasks.options",
            pb::SubmitFrame {
                options: vec![indexed(1), indexed(0)],
                ..two()
            },
        ),
    ];
    for (field, tasks) in cases {
        check(
            &submit(&broker, tasks).await.unwrap_err(),
            "INVALID_REQUEST",
            field,
        );
    }
    assert!(submit(&broker, two()).await.unwrap().refusals.is_empty());
}

#[tokio::test]
async fn options_out_of_range_are_refused() {
    let broker = Broker::start().await;
    let negative = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let metadatum = |key: &str, value: &[u8]| pb::TaskOptions {
        metadata: vec![pb::Metadatum {
            key: key.to_owned(),
            value: value.to_vec().into(),
        }],
        ..pb::TaskOptions::default()
    };
    let default = pb::TaskOptions::default;
    let cases = [
        (
            "options.delay",
            pb::TaskOptions {
                delay: negative,
                ..default()
            },
        ),
        (
            "options.deadline",
            pb::TaskOptions {
                deadline: negative,
                ..default()
            },
        ),
        (
            "options.priority",
            pb::TaskOptions {
                priority: Some(10),
                ..default()
            },
        ),
        (
            "options.priority",
            pb::TaskOptions {
                priority: Some(-1),
                ..default()
            },
        ),
        ("options.metadata[\"X\"]", metadatum("X", b"")),
        ("options.metadata[\"\"]", metadatum("", b"")),
        (
            "options.metadata[\"grpc-timeout\"]",
            metadatum("grpc-timeout", b"1S"),
        ),
        (
            "options.metadata[\"plait-task-id\"]",
            metadatum("plait-task-id", b"x"),
        ),
        ("options.metadata[\"x\"]", metadatum("x", b"\n")),
        (
            "options.parent.task",
            pb::TaskOptions {
                parent: Some(pb::FlowParent::default()),
                ..default()
            },
        ),
    ];
    for (field, wrong) in cases {
        let status = refused(&broker, options(wrong)).await;
        check(&status, "INVALID_REQUEST", field);
    }
    let large = metadatum("x-bin", &[0; 16 << 10]);
    let status = refused(&broker, options(large)).await;
    check(&status, "TOO_LARGE", "options.metadata");
    let fits = metadatum("x-bin", &[0; (16 << 10) - 5]);
    assert!(
        submit(&broker, options(fits))
            .await
            .unwrap()
            .refusals
            .is_empty()
    );
}

/// Tasks of several callers share a frame: what one of them says wrong is no business of the others.
#[tokio::test]
async fn bad_common_options_and_methods_concern_the_tasks_that_use_them() {
    let broker = Broker::start().await;
    let own = pb::IndexedOptions {
        index: 1,
        options: None,
    };
    let wrong = pb::TaskOptions {
        priority: Some(10),
        ..pb::TaskOptions::default()
    };
    let tasks = pb::SubmitFrame {
        options: vec![own],
        ..options(wrong)
    };
    let mut methods = frame(["a", "b"]).methods;
    for wrong in ["test.Echo/Say", "/a/b/c"] {
        methods.push(wrong.to_owned());
    }
    let cases = [
        pb::SubmitFrame {
            payloads: vec!["a".into(), "b".into(), "c".into()],
            ..tasks
        },
        pb::SubmitFrame {
            methods,
            method_index: vec![1, 0, 2],
            ..frame(["a", "b", "c"])
        },
    ];
    for tasks in cases {
        let accepted = submit(&broker, tasks).await.unwrap();
        let refused: Vec<u32> = accepted.refusals.iter().map(|r| r.index).collect();
        assert_eq!(refused, [0, 2]);
        assert_ne!(accepted.tasks[1], 0);
    }
}

#[tokio::test]
async fn a_task_over_a_limit_is_refused_alone() {
    let setup = Setup::default().with("PAYLOAD_BYTES_MAX", 2000);
    let broker = Broker::start_with(setup).await;
    let mut submitter = Submitter::open(&broker, 1).await;
    let own = pb::TaskOptions {
        priority: Some(77),
        ..pb::TaskOptions::default()
    };
    let tasks = || pb::SubmitFrame {
        idempotency_keys: vec![
            "a".into(),
            "k".repeat(1025),
            "c".into(),
            "d".into(),
            "a".into(),
        ],
        options: vec![pb::IndexedOptions {
            index: 3,
            options: Some(own.clone()),
        }],
        ..frame([
            vec![1; 2000],
            vec![1],
            vec![1; 2001],
            vec![1],
            vec![1; 2000],
        ])
    };
    for _ in 0..2 {
        submitter.submit(1, tasks()).await;
        let accepted = submitter.accepted(1).await.accepted.unwrap();
        assert!(accepted.tasks[0] != 0 && accepted.tasks[0] == accepted.tasks[4]);
        assert_eq!(accepted.existing, [4]);
        assert_eq!(accepted.tasks[1..4], [0, 0, 0]);
        let refused: Vec<(u32, String)> = accepted
            .refusals
            .iter()
            .map(|r| (r.index, refusal_reason(r)))
            .collect();
        let too_large = "TOO_LARGE".to_owned();
        let expected = [
            (1, too_large.clone()),
            (2, too_large),
            (3, "INVALID_REQUEST".to_owned()),
        ];
        assert_eq!(refused, expected);
        let details = accepted.refusals[1].status.clone().unwrap().encode_to_vec();
        let metadata = info(&details).unwrap().metadata;
        assert_eq!((&*metadata["limit"], &*metadata["size"]), ("2000", "2001"));
        // A second time by a new stream, as a client does that lost the answer.
        submitter = Submitter::open(&broker, 1).await;
    }
}
