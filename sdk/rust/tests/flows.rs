//! Handlers that make durable calls.

mod support;

use plait::errors::{self, ErrorReason};
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::*;
use plait::{Channel, Plait, RunningWorker, Task, TaskState};
use std::sync::Arc;
use support::echo::{Echo, Script};
use support::{Mesh, run, soon};
use tokio::sync::mpsc;
use tonic::Status;

async fn flow(p: &Plait, request: FlowRequest) -> Task<FlowResponse> {
    let submitted =
        p.submit(|channel| async move { EchoServiceClient::new(channel).flow(request).await });
    soon(submitted).await.expect("accepted")
}

#[tokio::test]
async fn children_are_run_once_though_the_flow_is_run_again() {
    let mesh = Mesh::start().await;
    let service = Echo::new(Some(mesh.p.channel()));
    let _worker = mesh.serve(&service).await;
    let request = FlowRequest {
        width: 20,
        depth: 2,
        seed: "s".into(),
        failures: 1,
        ..Default::default()
    };
    let task = flow(&mesh.p, request).await;
    let answer = soon(task.result()).await.expect("a result");
    assert_eq!((answer.attempt, answer.child_attempts), (2, 4));
    assert_eq!(service.runs("flow"), 2);
    assert_eq!(
        (service.runs("echo"), service.runs("fail")),
        (20, 4),
        "answered from the record"
    );
    assert_eq!(soon(task.info()).await.expect("known").child_count, 22);
}

#[tokio::test]
async fn a_flow_that_waits_gives_its_slot_back() {
    let mesh = Mesh::start().await;
    let service = Echo::new(Some(mesh.p.channel()));
    let _worker = run(mesh.worker(&service).concurrency(1)).await;
    let request = FlowRequest {
        width: 3,
        depth: 1,
        seed: "s".into(),
        ..Default::default()
    };
    let task = flow(&mesh.p, request).await;
    // With one slot, the children could never run if the flow kept it.
    soon(task.result()).await.expect("a result");
}

#[tokio::test]
async fn a_wide_flow_is_fanned_out() {
    let mesh = Mesh::start().await;
    let service = Echo::new(Some(mesh.p.channel()));
    let _worker = mesh.serve(&service).await;
    let request = FlowRequest {
        width: 3_000,
        seed: "s".into(),
        ..Default::default()
    };
    soon(flow(&mesh.p, request).await.result())
        .await
        .expect("a result");
    assert_eq!(service.runs("echo"), 3_000);
}

#[tokio::test]
async fn a_flow_that_changes_its_calls_is_refused() {
    let mesh = Mesh::start().await;
    let service = Echo::new(Some(mesh.p.channel()));
    let _worker = mesh.serve(&service).await;
    let request = FlowRequest {
        depth: 1,
        diverge: true,
        failures: 1,
        ..Default::default()
    };
    let error = soon(flow(&mesh.p, request).await.result())
        .await
        .expect_err("diverged");
    assert_eq!(errors::reason(&error), Some(ErrorReason::FlowDiverged));
}

/// A worker whose handler of `Inspect` is the script, and a task of it. The other methods are its children's.
struct Scripted {
    service: Echo,
    task: Task<InspectResponse>,
    _worker: RunningWorker,
}

async fn scripted<F>(mesh: &Mesh, script: impl Fn() -> F + Send + Sync + 'static) -> Scripted
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let script: Script = Box::new(move || Box::pin(script()));
    let service = Echo::scripted(None, Some(script));
    let worker = mesh.serve(&service).await;
    let submitted = mesh.p.submit(|channel| async move {
        EchoServiceClient::new(channel)
            .inspect(InspectRequest::default())
            .await
    });
    let task = soon(submitted).await.expect("accepted");
    Scripted {
        service,
        task,
        _worker: worker,
    }
}

/// The children that a script of this shape makes.
async fn children_of<F>(script: impl Fn(Plait) -> F + Send + Sync + 'static) -> i64
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let mesh = Mesh::start().await;
    let p = mesh.p.clone();
    let flow = scripted(&mesh, move || script(p.clone())).await;
    soon(flow.task.result()).await.expect("a result");
    soon(flow.task.info()).await.expect("known").child_count
}

async fn echo(channel: Channel, payload: &'static str) -> Result<(), Status> {
    let request = EchoRequest {
        payload: payload.into(),
    };
    EchoServiceClient::new(channel)
        .echo(request)
        .await
        .map(drop)
}

fn joined<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, Status> {
    joined.map_err(|error| Status::internal(error.to_string()))
}

#[tokio::test]
async fn what_a_handler_spawns_in_scope_makes_children() {
    let children = children_of(|p| async move {
        let attempt = plait::attempt().expect("inside a handler");
        let one = tokio::spawn(attempt.scope(echo(p.channel(), "1")));
        let two = tokio::spawn(plait::flow::scope(attempt, echo(p.channel(), "2")));
        joined(one.await)??;
        joined(two.await)?
    });
    assert_eq!(children.await, 2);
}

#[tokio::test]
async fn what_a_handler_spawns_without_scope_makes_none() {
    let children = children_of(|p| async move {
        let apart = tokio::spawn(async move {
            assert!(plait::attempt().is_none());
            echo(p.channel(), "1").await
        });
        joined(apart.await)?
    });
    assert_eq!(children.await, 0);
}

#[tokio::test]
async fn a_detached_channel_and_another_client_make_no_children() {
    let mesh = Mesh::start().await;
    let (p, other) = (mesh.p.clone(), mesh.broker.connect().await);
    let flow = scripted(&mesh, move || {
        let (detached, other) = (p.channel().detached(), other.channel());
        async move {
            echo(detached, "1").await?;
            echo(other, "2").await
        }
    });
    let flow = flow.await;
    soon(flow.task.result()).await.expect("a result");
    assert_eq!(soon(flow.task.info()).await.expect("known").child_count, 0);
}

#[tokio::test]
async fn a_submission_inside_a_flow_is_a_child_whose_result_is_at_hand() {
    let children = children_of(|p| async move {
        let one = |channel| async move {
            EchoServiceClient::new(channel)
                .echo(EchoRequest {
                    payload: "1".into(),
                })
                .await
        };
        let task = p.submit(one).await?;
        assert_eq!(task.result().await?.payload, "1");
        assert_eq!(task.result().await?.payload, "1", "asked for again");
        Ok(())
    });
    assert_eq!(children.await, 1);
}

#[tokio::test]
async fn a_named_child_is_found_in_any_place_and_refused_with_another_request() {
    let mesh = Mesh::start().await;
    let p = mesh.p.clone();
    let flow = scripted(&mesh, move || {
        let p = p.clone();
        async move {
            let number = plait::attempt().expect("inside a handler").number();
            let named = |name: &str| p.channel().child_key(name);
            match number {
                1 => {
                    echo(named("a"), "same").await?;
                    echo(named("b"), "same").await?;
                    Err(Status::unavailable("run me again"))
                }
                2 => {
                    echo(named("b"), "same").await?;
                    echo(named("a"), "same").await?;
                    Err(Status::unavailable("run me again"))
                }
                _ => echo(named("a"), "another").await,
            }
        }
    });
    let flow = flow.await;
    let error = soon(flow.task.result()).await.expect_err("another request");
    assert_eq!(errors::reason(&error), Some(ErrorReason::FlowDiverged));
    assert_eq!(
        (flow.service.runs("inspect"), flow.service.runs("echo")),
        (3, 2)
    );
}

#[tokio::test]
async fn a_flow_goes_on_after_the_broker_was_killed() {
    let mut mesh = Mesh::start().await;
    let p = mesh.p.clone();
    let flow = scripted(&mesh, move || {
        let mut client = EchoServiceClient::new(p.channel());
        async move { client.once(OnceRequest::default()).await.map(drop) }
    });
    let flow = flow.await;
    soon(flow.service.started(1)).await;
    mesh.broker.crash().await;
    flow.service.release(1);
    soon(flow.task.result()).await.expect("a result");
    // What a run asked for is not recorded, so the flow runs anew and finds its child.
    assert_eq!(flow.service.runs("once"), 1);
}

#[tokio::test]
async fn a_cancelled_flow_ends_the_waits_of_what_it_spawned() {
    let mesh = Mesh::start().await;
    let p = mesh.p.clone();
    let (ended, mut ends) = mpsc::channel(1);
    let ended = Arc::new(ended);
    let flow = scripted(&mesh, move || {
        let (mut client, ended) = (EchoServiceClient::new(p.channel()), Arc::clone(&ended));
        let attempt = plait::attempt().expect("inside a handler");
        async move {
            let child = async move {
                let answer = client.once(OnceRequest::default()).await;
                ended.send(answer.map(drop)).await
            };
            drop(tokio::spawn(attempt.scope(child)));
            std::future::pending().await
        }
    });
    let flow = flow.await;
    soon(flow.service.started(1)).await;
    soon(flow.task.cancel("enough")).await.expect("cancelled");
    let end = soon(ends.recv())
        .await
        .expect("told")
        .expect_err("nobody waits for it any more");
    assert_eq!(end.code(), tonic::Code::Cancelled);
    assert_eq!(
        soon(flow.task.state()).await.expect("known"),
        TaskState::Cancelled
    );
}
