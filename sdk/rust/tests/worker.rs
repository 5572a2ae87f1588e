//! A worker's life: slots, drain, deadlines, refusals, and a broker that comes and goes.

mod support;

use plait::errors::{self, ErrorReason};
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::*;
use plait::{Plait, Task, TaskState};
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;
use support::echo::Echo;
use support::{Mesh, run, soon};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};

async fn submit_once(p: &Plait) -> Task<OnceResponse> {
    let submitted = p.submit(|channel| async move {
        EchoServiceClient::new(channel)
            .once(OnceRequest::default())
            .await
    });
    soon(submitted).await.expect("accepted")
}

async fn submit_append(p: &Plait, number: i64) -> Task<AppendResponse> {
    let entry = Some(Entry {
        id: format!("entry-{number}"),
        number,
    });
    let append = AppendRequest {
        account: "a".into(),
        entry,
    };
    let submitted =
        p.submit(|channel| async move { EchoServiceClient::new(channel).append(append).await });
    soon(submitted).await.expect("accepted")
}

fn sleep(time: Duration) -> SleepRequest {
    SleepRequest {
        duration: time.try_into().ok(),
    }
}

#[tokio::test]
async fn no_more_run_at_once_than_there_are_slots() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = run(mesh.worker(&service).concurrency(2)).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(submit_once(&mesh.p).await);
    }
    soon(service.started(2)).await;
    service.release(6);
    for task in tasks {
        soon(task.result()).await.expect("a result");
    }
    assert_eq!((service.runs("once"), service.peak()), (6, 2));
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_the_rest() {
    let mesh = Mesh::start().await;
    let (first, second) = (Echo::new(None), Echo::new(None));
    let worker = run(mesh.worker(&first).concurrency(1)).await;
    let (running, waiting) = (submit_once(&mesh.p).await, submit_once(&mesh.p).await);
    soon(first.started(1)).await;
    worker.stop();
    let other = run(mesh.worker(&second).concurrency(1)).await;
    soon(second.started(1)).await;
    first.release(1);
    soon(worker.wait()).await.expect("drained");
    soon(running.result()).await.expect("finished by the first");
    second.release(1);
    soon(waiting.result()).await.expect("done by the second");
    assert_eq!((first.runs("once"), second.runs("once")), (1, 1));
    let info = soon(waiting.info()).await.expect("known");
    assert_eq!(info.attempt, 1, "what was handed back cost no attempt");
    other.stop();
    soon(other.wait()).await.expect("drained");
}

#[tokio::test]
async fn a_drain_ends_with_its_grace() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let worker = run(mesh.worker(&service).grace(Duration::from_millis(50))).await;
    let task = submit_once(&mesh.p).await;
    soon(service.started(1)).await;
    worker.stop();
    soon(worker.wait()).await.expect("ended");
    soon(service.dropped()).await;
    assert_ne!(
        soon(task.state()).await.expect("known"),
        TaskState::Succeeded
    );
}

#[tokio::test]
async fn stopping_now_drops_what_runs_and_another_worker_takes_over() {
    let mesh = Mesh::start().await;
    let (first, second) = (Echo::new(None), Echo::new(None));
    let worker = mesh.serve(&first).await;
    let submitted = mesh.p.submit(|channel| async move {
        EchoServiceClient::new(channel)
            .sleep(sleep(Duration::from_secs(1)))
            .await
    });
    let task = soon(submitted).await.expect("accepted");
    soon(first.started(1)).await;
    worker.stop_now();
    soon(worker.wait()).await.expect("ended");
    soon(first.dropped()).await;
    let _other = mesh.serve(&second).await;
    soon(task.result()).await.expect("done by the second");
    assert_eq!((first.runs("sleep"), second.runs("sleep")), (1, 1));
}

#[tokio::test]
async fn an_attempt_out_of_time_is_stopped_and_run_again() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    // The policy gives an attempt 5 s; the task's deadline comes first.
    let submitted = mesh.p.submit(|channel| async move {
        let channel = channel.deadline(Duration::from_millis(300));
        EchoServiceClient::new(channel)
            .sleep(sleep(Duration::from_secs(60)))
            .await
    });
    let task = soon(submitted).await.expect("accepted");
    let error = soon(task.result()).await.expect_err("out of time");
    assert_eq!(errors::reason(&error), Some(ErrorReason::TaskExpired));
    soon(service.dropped()).await;
}

#[tokio::test]
async fn handlers_go_on_while_the_broker_is_away_and_keep_their_leases() {
    let mut mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let task = submit_once(&mesh.p).await;
    soon(service.started(1)).await;
    mesh.broker.kill().await;
    service.release(1);
    mesh.broker.restart().await;
    soon(task.result())
        .await
        .expect("the outcome was told after the restart");
    assert_eq!(
        service.runs("once"),
        1,
        "the lease was held over the restart"
    );
}

#[tokio::test]
async fn submissions_and_results_survive_a_broker_that_is_killed() {
    let mut mesh = Mesh::start().await;
    let service = Echo::new(None);
    let _worker = mesh.serve(&service).await;
    let mut tasks = vec![submit_append(&mesh.p, 1).await];
    for crash in 0..3 {
        mesh.broker.kill().await;
        // Submitted while there is no broker; accepted once there is one.
        let (p, first) = (mesh.p.clone(), 2 + crash * 10);
        let submitting = tokio::spawn(async move {
            let mut tasks = Vec::new();
            for number in first..first + 10 {
                tasks.push(submit_append(&p, number).await);
            }
            tasks
        });
        mesh.broker.restart().await;
        tasks.extend(soon(submitting).await.expect("no panic"));
    }
    for task in tasks {
        soon(task.result()).await.expect("a result");
    }
    let mut line = service.line("a");
    line.dedup();
    assert_eq!(
        line,
        (1..=31).collect::<Vec<_>>(),
        "in order, and none is missing"
    );
}

#[tokio::test]
async fn a_wiped_broker_learns_the_contract_again() {
    let mut mesh = Mesh::start().await;
    let service = Echo::new(None);
    let worker = mesh.serve(&service).await;
    submit_append(&mesh.p, 1).await;
    mesh.broker.wipe().await;
    let answer = async {
        loop {
            match mesh.client().echo(EchoRequest::default()).await {
                Ok(answer) => return answer,
                // Until the worker is attached again, nobody declares the method.
                Err(error) => assert_eq!(errors::reason(&error), Some(ErrorReason::MethodUnknown)),
            }
        }
    };
    soon(answer).await;
    drop(worker);
}

#[tokio::test]
async fn methods_that_are_left_out_are_left_to_other_workers() {
    let mesh = Mesh::start().await;
    let service = Echo::new(None);
    let error = mesh.worker(&service).methods(["Nothing", "ce"]).start();
    let error = error.expect_err("no such method");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("Nothing, ce"), "{error}");
    let _one = run(mesh.worker(&service).methods(["Append"])).await;
    let once = submit_once(&mesh.p).await;
    let append = submit_append(&mesh.p, 1).await;
    soon(append.result()).await.expect("a result");
    assert_eq!(soon(once.state()).await.expect("a state"), TaskState::Ready);
    let _other = run(mesh.worker(&service).methods(["Once"])).await;
    service.release(1);
    soon(once.result()).await.expect("a result");
}

#[tokio::test]
async fn a_service_without_a_descriptor_is_refused() {
    let mesh = Mesh::start().await;
    let error = mesh
        .p
        .worker()
        .serve(Named::<Unknown>::new())
        .start()
        .expect_err("no descriptor");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("shop.v1.OrderService"), "{error}");
    let error = mesh.p.worker().start().expect_err("nothing to serve");
    assert_eq!(error.code(), Code::FailedPrecondition);
    let broken = mesh
        .p
        .worker()
        .serve(Named::<Unknown>::new())
        .descriptors(&b"\x0a\x05"[..]);
    assert_eq!(
        broken.start().expect_err("broken").code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_streaming_method_is_refused() {
    let mesh = Mesh::start().await;
    let error = mesh
        .p
        .worker()
        .serve(Named::<Streams>::new())
        .start()
        .expect_err("streams");
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(
        error.message().contains("/plait.v1.WorkerService/Attach"),
        "{error}"
    );
}

/// A tower service that is never called, with a name.
struct Named<N>(std::marker::PhantomData<N>);

struct Unknown;
struct Streams;

impl<N> Named<N> {
    fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<N> Clone for Named<N> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl NamedService for Named<Unknown> {
    const NAME: &'static str = "shop.v1.OrderService";
}

impl NamedService for Named<Streams> {
    const NAME: &'static str = "plait.v1.WorkerService";
}

impl<N> tower::Service<http::Request<Body>> for Named<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::ready(Ok(Status::unimplemented("never called").into_http()))
    }
}
