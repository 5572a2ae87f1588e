//! Submissions and calls in bulk, through a real broker to a real worker.

mod support;

use futures_util::{StreamExt, stream};
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::*;
use plait::{Plait, Responses};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::echo::Echo;
use support::{Mesh, soon};
use tokio_stream::Stream;
use tonic::{Code, Request, Status};

/// Requests that are pulled ahead.
const UNDER_WAY: usize = 8_192;

fn numbers(count: usize) -> impl Stream<Item = EchoRequest> + Send + 'static {
    stream::iter((0..count).map(|number| EchoRequest {
        payload: number.to_string().into(),
    }))
}

fn echo(
    p: &Plait,
    requests: impl Stream<Item = EchoRequest> + Send + 'static,
) -> Responses<EchoResponse> {
    p.call_many(requests, |channel, request| async move {
        EchoServiceClient::new(channel).echo(request).await
    })
}

#[tokio::test]
async fn handles_come_in_the_order_of_the_requests_and_so_do_the_tasks_of_a_line() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let appends = (1..=1_000).map(|number| AppendRequest {
        account: format!("account-{}", number % 3),
        entry: Some(Entry {
            id: format!("entry-{number}"),
            number,
        }),
    });
    let submissions = mesh
        .p
        .submit_many(tokio_stream::iter(appends), |channel, append| async move {
            EchoServiceClient::new(channel).append(append).await
        });
    let tasks: Vec<_> = soon(submissions.collect()).await;
    let mut ids = Vec::new();
    for task in tasks {
        let task = task.expect("accepted");
        soon(task.result()).await.expect("a result");
        ids.push(task.id());
    }
    assert!(ids.is_sorted(), "handles come in the order of the requests");
    for account in 0..3 {
        let line = service.line(&format!("account-{account}"));
        let want: Vec<_> = (1..=1_000).filter(|number| number % 3 == account).collect();
        assert_eq!(line, want);
    }
}

#[tokio::test]
async fn responses_come_in_the_order_of_the_requests() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let count = UNDER_WAY + 1_000;
    let responses: Vec<_> = soon(echo(&mesh.p, numbers(count)).collect()).await;
    assert_eq!(responses.len(), count);
    for (number, response) in responses.into_iter().enumerate() {
        assert_eq!(response.expect("a response").payload, number.to_string());
    }
}

#[tokio::test]
async fn one_that_fails_does_not_end_the_rest() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let requests = stream::iter([Code::Ok, Code::NotFound, Code::Cancelled, Code::Ok]);
    let responses = mesh.p.call_many(requests, |channel, code| async move {
        if code == Code::Cancelled {
            return Err(Status::cancelled("not made at all"));
        }
        let fail = FailRequest {
            code: Code::NotFound.into(),
            failures: if code == Code::Ok { 0 } else { 9 },
            ..FailRequest::default()
        };
        EchoServiceClient::new(channel).fail(fail).await
    });
    let responses: Vec<_> = soon(responses.collect()).await;
    let codes = responses.iter().map(|response| match response {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    });
    assert_eq!(
        codes.collect::<Vec<_>>(),
        [Code::Ok, Code::NotFound, Code::Cancelled, Code::Ok]
    );
    let failed = responses[1].as_ref().expect_err("told to fail");
    assert!(failed.metadata().get("plait-task-id").is_some());
}

#[tokio::test]
async fn a_closure_makes_one_call() {
    let mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let responses = mesh
        .p
        .call_many(stream::iter([0, 1, 2]), |channel, calls| async move {
            let echo = || EchoServiceClient::new(channel.clone());
            let (mut one, mut two) = (echo(), echo());
            let request = EchoRequest::default;
            match calls {
                0 => Ok(tonic::Response::new(EchoResponse::default())),
                1 => one.echo(request()).await,
                _ => tokio::try_join!(one.echo(request()), two.echo(request())).map(|both| both.0),
            }
        });
    let responses: Vec<_> = soon(responses.collect()).await;
    let error = |at: usize| responses[at].as_ref().expect_err("refused").code();
    assert_eq!(
        (error(0), error(2)),
        (Code::FailedPrecondition, Code::FailedPrecondition)
    );
    responses[1].as_ref().expect("one call is right");
}

#[tokio::test]
async fn what_is_pulled_ahead_is_bounded() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let pulled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pulled);
    let requests = stream::iter((0..3 * UNDER_WAY).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        OnceRequest::default()
    }));
    let mut responses = mesh.p.call_many(requests, |channel, request| async move {
        EchoServiceClient::new(channel).once(request).await
    });
    // No task ends before it is released.
    tokio::select! {
        _ = responses.next() => panic!("nothing was released"),
        () = soon(service.started(1)) => {}
    }
    tokio::select! {
        _ = responses.next() => panic!("nothing was released"),
        () = reaches(&pulled, UNDER_WAY) => {}
    }
    assert!(pulled.load(Ordering::Relaxed) <= UNDER_WAY + 2);
}

async fn reaches(count: &AtomicUsize, want: usize) {
    while count.load(Ordering::Relaxed) < want {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_deadline_of_the_calls_is_that_of_the_tasks() {
    let mesh = Mesh::start().await;
    // Announced, and nobody works on it any more.
    let worker = mesh.serve(&Echo::new(None)).await;
    worker.stop();
    soon(worker.wait()).await.expect("drained");
    let mut responses = mesh.p.call_many(numbers(1), |channel, request| async move {
        let mut request = Request::new(request);
        request.set_timeout(std::time::Duration::from_millis(50));
        EchoServiceClient::new(channel).echo(request).await
    });
    let expired = soon(responses.next()).await.expect("an answer");
    assert_eq!(expired.expect_err("expired").code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_broker_that_was_wiped_learns_the_method_and_answers_all() {
    let mut mesh = Mesh::start().await;
    let _worker = mesh.serve(&Echo::new(None)).await;
    let knowing = Plait::builder()
        .address(mesh.broker.address.as_str())
        .descriptors(plait::pb::FILE_DESCRIPTOR_SET);
    let p = soon(knowing.connect()).await.expect("connected");
    let first: Vec<_> = soon(echo(&p, numbers(10)).collect()).await;
    assert!(first.iter().all(Result::is_ok));
    mesh.broker.wipe().await;
    let again: Vec<_> = soon(echo(&p, numbers(10)).collect()).await;
    for (number, response) in again.into_iter().enumerate() {
        assert_eq!(response.expect("a response").payload, number.to_string());
    }
}
