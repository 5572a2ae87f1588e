//! Time that is moved, and attempts that fail as told, against a real broker and scheduler.

mod support;

use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::echo_service_server::EchoServiceServer;
use plait::pb::testing::v1::*;
use plait::testing::{Fault, Mesh, TestKit};
use plait::{Plait, RunningWorker, Task, pb};
use std::time::Duration;
use support::echo::Echo;
use support::{run, soon};
use tonic::{Code, Status};

const ECHO: &str = "testing.v1.EchoService/Echo";
const MINUTE: Duration = Duration::from_secs(60);

async fn mesh() -> (Mesh, TestKit, Plait) {
    let mesh = Mesh::start_with_kit().await;
    let mesh = mesh.expect("PLAIT_BIN and PLAIT_SCHEDULER, as `make test-rust` sets them");
    let kit = mesh.kit().expect("a kit");
    let p = soon(mesh.connect()).await.expect("a broker");
    (mesh, kit, p)
}

async fn serve(p: &Plait) -> RunningWorker {
    let service = EchoServiceServer::new(Echo::new(Some(p.channel())));
    let worker = p.worker().serve(service);
    run(worker.descriptors(pb::FILE_DESCRIPTOR_SET)).await
}

async fn echo(p: &Plait, delay: Duration) -> Task<EchoResponse> {
    let submitted = p.submit(|channel| async move {
        EchoServiceClient::new(channel.delay(delay))
            .echo(EchoRequest::default())
            .await
    });
    soon(submitted).await.expect("accepted")
}

#[tokio::test]
async fn an_hour_takes_no_time() {
    let (_mesh, kit, p) = mesh().await;
    let _worker = serve(&p).await;
    let began = soon(kit.now()).await.expect("a clock");
    let task = echo(&p, 60 * MINUTE).await;
    let ended = soon(kit.finish(task.id())).await.expect("it ends");
    soon(task.result()).await.expect("a result");
    let passed = ended.duration_since(began).expect("later");
    assert!((60 * MINUTE..62 * MINUTE).contains(&passed), "{passed:?}");
}

#[tokio::test]
async fn attempts_fail_as_told() {
    let (_mesh, kit, p) = mesh().await;
    let _worker = serve(&p).await;
    let fault = || Fault::of(ECHO);
    let not_yet = Status::unavailable("not yet");
    kit.fail(fault(), &not_yet).await.expect("a fault");
    kit.expire_lease(fault().attempts([2]))
        .await
        .expect("a fault");
    kit.drop_stream(fault().attempts([3]))
        .await
        .expect("a fault");
    let last = fault().attempts([4]).times(1).after();
    let told = Status::not_found("as told");
    kit.fail(last, &told).await.expect("a fault");
    let task = echo(&p, Duration::ZERO).await;
    soon(kit.finish(task.id())).await.expect("it ends");
    let failed = soon(task.result()).await.expect_err("as told");
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::NotFound, "as told")
    );
    assert_eq!(kit.struck().await.expect("counts"), [1, 1, 1, 1]);
    kit.clear().await.expect("cleared");
    assert!(kit.struck().await.expect("counts").is_empty());
}

#[tokio::test]
async fn what_is_submitted_after_a_flag_was_set_sees_it() {
    let (_mesh, kit, p) = mesh().await;
    let _worker = serve(&p).await;
    let mut stub = EchoServiceClient::new(p.channel());
    for wanted in [true, false, true] {
        kit.set_flag("new-pricing", wanted).await.expect("set");
        let request = InspectRequest {
            flag: "new-pricing".to_owned(),
            ..InspectRequest::default()
        };
        let answer = soon(stub.inspect(request)).await.expect("an answer");
        assert_eq!(answer.get_ref().flag_on, wanted);
    }
    let refused = kit.set_flag("New Pricing", true).await;
    assert_eq!(refused.expect_err("a name").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_holds_the_clock_is_said() {
    let (mut mesh, kit, p) = mesh().await;
    drop(serve(&p).await);
    let task = echo(&p, Duration::ZERO).await;
    let hasty = kit.clone().patience(Duration::from_millis(100));
    let held = soon(hasty.finish(task.id())).await.expect_err("held");
    assert_eq!(held.code(), Code::FailedPrecondition);
    assert!(held.message().contains("no worker serves it"), "{held}");
    let late = kit.advance_regardless(120 * MINUTE + Duration::from_secs(1));
    soon(late).await.expect("it moves");
    let expired = soon(task.result()).await.expect_err("too late");
    assert_eq!(expired.code(), Code::DeadlineExceeded);
    soon(mesh.kill_scheduler()).await.expect("killed");
    soon(mesh.kill_broker()).await.expect("killed");
    assert_eq!(
        soon(kit.now()).await.expect_err("gone").code(),
        Code::Unavailable
    );
    soon(mesh.start_broker()).await.expect("started");
    soon(kit.now()).await.expect("the same address");
    soon(mesh.start_scheduler()).await.expect("started");
}

#[tokio::test]
async fn a_mesh_may_have_no_kit() {
    let mesh = soon(Mesh::start()).await.expect("a mesh");
    assert!(mesh.kit().is_none());
    soon(mesh.connect()).await.expect("a broker");
}
