//! Calls and submissions through a real broker to a real worker.

mod support;

use futures_util::StreamExt;
use plait::errors::{self, ErrorReason};
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::*;
use plait::{Plait, TaskId, TaskState, pb};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::echo::Echo;
use support::{Mesh, soon};
use tokio::sync::oneshot;
use tonic::{Code, Request};

fn echo(payload: &str) -> EchoRequest {
    EchoRequest {
        payload: payload.to_owned().into(),
    }
}

#[tokio::test]
async fn a_call_is_durable_and_returns_its_result() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let answer = soon(mesh.client().echo(echo("hello")))
        .await
        .expect("an answer");
    let id = answer
        .metadata()
        .get("plait-task-id")
        .expect("the task's id")
        .to_str()
        .expect("text");
    let id: TaskId = id.parse().expect("an id");
    assert_eq!(answer.get_ref().payload, "hello");
    let task = mesh.p.task::<EchoResponse>(id);
    assert_eq!(
        soon(task.state()).await.expect("known"),
        TaskState::Succeeded
    );
    assert_eq!(soon(task.result()).await.expect("kept").payload, "hello");
}

#[tokio::test]
async fn a_submission_answers_with_a_handle_before_the_work_is_done() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let once = |channel| async move {
        EchoServiceClient::new(channel)
            .once(OnceRequest::default())
            .await
    };
    let task = soon(mesh.p.submit(once)).await.expect("accepted");
    soon(service.started(1)).await;
    let mut changes = soon(task.watch()).await.expect("known");
    let mut state = TaskState::Unspecified;
    while state != TaskState::Running {
        state = soon(changes.next())
            .await
            .expect("more")
            .expect("a change")
            .state();
    }
    service.release(1);
    soon(task.result()).await.expect("a result");
    soon(task.result())
        .await
        .expect("it can be asked for again");
    while let Some(change) = soon(changes.next()).await {
        state = change.expect("a change").state();
    }
    assert_eq!(state, TaskState::Succeeded);
    assert_eq!(service.runs("once"), 1);
}

#[tokio::test]
async fn a_handlers_error_arrives_as_it_was() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let fail = FailRequest {
        code: Code::NotFound.into(),
        message: "no \u{201c}such\u{201d} thing".into(),
        failures: 9,
        violation: "a.b".into(),
        trailer: "me".into(),
        ..FailRequest::default()
    };
    let error = soon(mesh.client().fail(fail))
        .await
        .expect_err("told to fail");
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.message(), "no \u{201c}such\u{201d} thing");
    assert_eq!(
        error.metadata().get("x-failed-by").expect("a trailer"),
        "me"
    );
    assert!(error.metadata().get("plait-task-id").is_some());
    assert_eq!(
        errors::error_info(&error).expect("details").metadata["field"],
        "a.b"
    );
}

#[tokio::test]
async fn a_failed_attempt_is_run_again() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let fail = FailRequest {
        code: Code::Unavailable.into(),
        failures: 2,
        ..Default::default()
    };
    let answer = soon(mesh.client().fail(fail))
        .await
        .expect("the third attempt answers");
    assert_eq!((answer.get_ref().attempt, service.runs("fail")), (3, 3));
}

#[tokio::test]
async fn a_panic_is_unknown_and_the_worker_lives() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let task = mesh.p.submit(|channel| async move {
        EchoServiceClient::new(channel.deadline(Duration::from_secs(50)))
            .echo(echo("panic"))
            .await
    });
    let task = soon(task).await.expect("accepted");
    let mut changes = soon(task.watch()).await.expect("known");
    let error = loop {
        let change = soon(changes.next()).await.expect("more").expect("a change");
        if let Some(error) = change.error {
            break error;
        }
    };
    assert_eq!(error.code, i32::from(Code::Unknown));
    assert!(
        error.message.contains("panicked: told to"),
        "{}",
        error.message
    );
    soon(task.cancel("seen enough")).await.expect("cancelled");
    soon(mesh.client().echo(echo("still here")))
        .await
        .expect("an answer");
}

#[tokio::test]
async fn the_handler_sees_its_attempt() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let channel = mesh
        .p
        .channel()
        .key("k-1")
        .deadline(Duration::from_secs(20));
    let mut request = Request::new(InspectRequest::default());
    request
        .metadata_mut()
        .insert("tenant", "acme".parse().expect("ascii"));
    request.set_timeout(Duration::from_secs(10));
    let seen = soon(EchoServiceClient::new(channel).inspect(request))
        .await
        .expect("an answer");
    let id = seen
        .metadata()
        .get("plait-task-id")
        .expect("an id")
        .to_str()
        .expect("text")
        .to_owned();
    let seen = seen.into_inner();
    assert_eq!(
        (
            seen.attempt,
            seen.task.as_str(),
            seen.idempotency_key.as_str()
        ),
        (1, id.as_str(), "k-1")
    );
    let left = seen.time_remaining.expect("a deadline").seconds;
    assert!(
        (1..10).contains(&left),
        "the caller's deadline is the task's: {left}"
    );
    for (key, want) in [
        ("plait-task-id", id.as_str()),
        ("plait-attempt", "1"),
        ("plait-idempotency-key", "k-1"),
        ("plait-fencing-token", &seen.fencing_token.to_string()),
        ("tenant", "acme"),
    ] {
        assert_eq!(seen.metadata[key], want, "{key}");
    }
    let timeout = plait::deadline::decode_timeout(&seen.metadata["grpc-timeout"]);
    assert!(timeout.expect("a timeout") < Duration::from_secs(10));
}

#[tokio::test]
async fn a_key_makes_a_submission_idempotent() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let append = |number| AppendRequest {
        account: "a".into(),
        entry: Some(Entry {
            id: "entry-1".into(),
            number,
        }),
    };
    for _ in 0..3 {
        let answer = soon(mesh.client().append(append(1)))
            .await
            .expect("an answer");
        assert_eq!(answer.get_ref().length, 1);
    }
    assert_eq!(service.line("a"), [1]);
    let error = soon(mesh.client().append(append(2)))
        .await
        .expect_err("another request");
    assert_eq!(
        errors::reason(&error),
        Some(ErrorReason::DuplicateKeyConflict)
    );
    let error = soon(mesh.client().append(AppendRequest::default()))
        .await
        .expect_err("no key");
    assert_eq!(errors::reason(&error), Some(ErrorReason::KeyMissing));
}

#[tokio::test]
async fn a_deadline_bounds_the_wait_and_stops_the_handler() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let mut request = Request::new(SleepRequest {
        duration: Some(prost_types::Duration {
            seconds: 50,
            nanos: 0,
        }),
    });
    request.set_timeout(Duration::from_millis(300));
    let error = soon(mesh.client().sleep(request))
        .await
        .expect_err("too late");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    soon(service.dropped()).await;
}

#[tokio::test]
async fn a_cancelled_task_drops_its_handler() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let task = mesh.p.submit(|channel| async move {
        EchoServiceClient::new(channel)
            .once(OnceRequest::default())
            .await
    });
    let task = soon(task).await.expect("accepted");
    soon(service.started(1)).await;
    assert_eq!(
        soon(task.cancel("enough")).await.expect("known").state(),
        TaskState::Cancelled
    );
    soon(service.dropped()).await;
    let error = soon(task.result()).await.expect_err("cancelled");
    assert_eq!(errors::reason(&error), Some(ErrorReason::TaskCancelled));
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_nothing() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let mut client = mesh.client();
    let call = tokio::spawn(async move { client.once(OnceRequest::default()).await });
    soon(service.started(1)).await;
    call.abort();
    assert!(soon(call).await.is_err_and(|error| error.is_cancelled()));
    service.release(1);
    let state = async {
        loop {
            let tasks = mesh
                .p
                .tasks()
                .list_tasks(pb::v1::ListTasksRequest::default())
                .await;
            let tasks = tasks.expect("tasks").into_inner().tasks;
            if tasks[0].state() == TaskState::Succeeded {
                return tasks.len();
            }
        }
    };
    assert_eq!(soon(state).await, 1);
}

#[tokio::test]
async fn a_method_that_nobody_declares_is_unknown() {
    let mesh = Mesh::start().await;
    let error = soon(mesh.client().echo(echo("x")))
        .await
        .expect_err("nobody serves it");
    assert_eq!(errors::reason(&error), Some(ErrorReason::MethodUnknown));
    assert!(
        error.message().contains("/testing.v1.EchoService/Echo"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_with_descriptors_announces_its_methods() {
    let mesh = Mesh::start().await;
    let p = Plait::builder()
        .address(&mesh.broker.address)
        .descriptors(pb::FILE_DESCRIPTOR_SET);
    let p = soon(p.connect()).await.expect("a broker");
    let submitted =
        p.submit(|channel| async move { EchoServiceClient::new(channel).echo(echo("x")).await });
    let task = soon(submitted)
        .await
        .expect("accepted before there is a worker");
    assert_eq!(soon(task.state()).await.expect("known"), TaskState::Ready);
    let _worker = mesh.serve(&Echo::new(None)).await;
    assert_eq!(soon(task.result()).await.expect("a result").payload, "x");
}

#[tokio::test]
async fn a_delayed_task_starts_later() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let task = mesh.p.submit(|channel| async move {
        EchoServiceClient::new(channel.delay(Duration::from_millis(400)))
            .echo(echo("x"))
            .await
    });
    let task = soon(task).await.expect("accepted");
    assert_eq!(
        soon(task.state()).await.expect("known"),
        TaskState::Scheduled
    );
    soon(task.result()).await.expect("a result");
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_and_others_go_on() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let large = EchoRequest {
        payload: vec![0; 2 << 20].into(),
    };
    let error = soon(mesh.client().echo(large))
        .await
        .expect_err("over the limit");
    assert_eq!(errors::reason(&error), Some(ErrorReason::TooLarge));
    let fits = EchoRequest {
        payload: vec![7; 1 << 19].into(),
    };
    let answer = soon(mesh.client().echo(fits.clone()))
        .await
        .expect("within the limit");
    assert_eq!(answer.get_ref().payload, fits.payload);
}

#[tokio::test]
async fn closing_waits_for_acceptance_and_ends_the_waits() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let p = mesh.broker.connect().await;
    let mut client = EchoServiceClient::new(p.channel());
    let call = tokio::spawn(async move { client.once(OnceRequest::default()).await });
    soon(service.started(1)).await;
    soon(p.close()).await;
    let error = soon(call).await.expect("no panic").expect_err("closed");
    assert_eq!(error.code(), Code::Cancelled);
}

#[tokio::test]
async fn a_closure_makes_exactly_one_call() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let none = mesh
        .p
        .submit(|_| async { Ok(tonic::Response::new(EchoResponse::default())) });
    assert_eq!(
        soon(none).await.expect_err("none").code(),
        Code::FailedPrecondition
    );
    let two = mesh.p.submit(|channel| async move {
        let (mut one, mut two) = (
            EchoServiceClient::new(channel.clone()),
            EchoServiceClient::new(channel),
        );
        tokio::try_join!(one.echo(echo("1")), two.echo(echo("2"))).map(|(one, _)| one)
    });
    assert_eq!(
        soon(two).await.expect_err("two").code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn a_closure_ends_with_its_call() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let went_on = Arc::new(AtomicBool::new(false));
    let after = Arc::clone(&went_on);
    let task = mesh.p.submit(|channel| async move {
        let answer = EchoServiceClient::new(channel).echo(echo("1")).await;
        after.store(true, Ordering::Relaxed);
        answer
    });
    let task = soon(task).await.expect("accepted");
    assert_eq!(soon(task.result()).await.expect("done").payload, "1");
    assert!(!went_on.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_call_that_is_made_elsewhere_is_noticed() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let (elsewhere, call) = oneshot::channel();
    let task = mesh.p.submit(|channel| async move {
        let call = async move { EchoServiceClient::new(channel).echo(echo("1")).await };
        let _ = elsewhere.send(tokio::spawn(call));
        std::future::pending().await
    });
    let task: plait::Task<EchoResponse> = soon(task).await.expect("accepted");
    assert_eq!(soon(task.result()).await.expect("done").payload, "1");
    let call = soon(call).await.expect("sent");
    let answer = soon(call).await.expect("no panic").expect("an answer");
    assert_eq!(answer.into_inner().payload, "");
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let p = Plait::builder()
        .address(address)
        .connect_timeout(Duration::from_millis(100))
        .connect();
    assert_eq!(soon(p).await.expect_err("nobody").code(), Code::Unavailable);
    let none = Plait::builder().address("not an address").connect();
    assert_eq!(
        soon(none).await.expect_err("none").code(),
        Code::InvalidArgument
    );
}
