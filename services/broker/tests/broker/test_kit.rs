//! The clock that is moved ahead and the attempts that are made to fail.

use plait::pb::control::v1 as control;
use plait::pb::google::rpc;
use plait::pb::plait::testkit::v1 as kit;
use plait::pb::plait::testkit::v1::advance_clock_request::Until;
use plait::pb::plait::testkit::v1::fault::Action;
use plait::pb::plait::testkit::v1::test_kit_service_client::TestKitServiceClient;
use plait::pb::v1 as pb;
use plait::pb::v1::attach_response::Message;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::calls::{get, submit, until};
use crate::support::{
    Broker, ECHO, Scheduler, Setup, Worker, check_refusal, frame, id, policy, reason,
};

const DAY_S: i64 = 24 * 3600;

async fn broker() -> Broker {
    let broker = Broker::empty(Setup::default().with("TEST_KIT", true)).await;
    let patient = control::MethodPolicy {
        deadline_ms: 30 * 24 * 3_600_000,
        ..policy(ECHO)
    };
    let mut scheduler = Scheduler::observe(&broker).await;
    scheduler.declare(&broker, vec![patient]).await;
    broker
}

fn client(broker: &Broker) -> TestKitServiceClient<Channel> {
    TestKitServiceClient::new(broker.channel())
}

fn span(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn by(seconds: i64) -> kit::AdvanceClockRequest {
    kit::AdvanceClockRequest {
        until: Some(Until::By(span(seconds))),
        ..kit::AdvanceClockRequest::default()
    }
}

fn finished(task: u64) -> kit::AdvanceClockRequest {
    kit::AdvanceClockRequest {
        until: Some(Until::Finished(id(task))),
        ..kit::AdvanceClockRequest::default()
    }
}

/// The time it is afterwards, in seconds.
async fn advance(broker: &Broker, request: kit::AdvanceClockRequest) -> Result<i64, Status> {
    let answer = client(broker).advance_clock(request).await?.into_inner();
    Ok(answer.time.unwrap().seconds)
}

async fn time(broker: &Broker) -> i64 {
    let answer = client(broker).get_clock(kit::GetClockRequest {}).await;
    answer.unwrap().into_inner().time.unwrap().seconds
}

async fn submit_after(broker: &Broker, seconds: i64) -> u64 {
    let common = pb::TaskOptions {
        delay: Some(span(seconds)),
        ..pb::TaskOptions::default()
    };
    let tasks = pb::SubmitFrame {
        common: Some(common),
        ..frame(["late"])
    };
    submit(broker, "", false, tasks).await.unwrap().tasks[0]
}

fn fault(attempts: &[u32], action: Action) -> kit::AddFaultRequest {
    let fault = kit::Fault {
        method: ECHO.to_owned(),
        attempts: attempts.to_vec(),
        times: 0,
        action: Some(action),
    };
    kit::AddFaultRequest { fault: Some(fault) }
}

async fn add(broker: &Broker, attempts: &[u32], action: Action) {
    let added = client(broker).add_fault(fault(attempts, action)).await;
    added.unwrap();
}

fn unavailable() -> rpc::Status {
    rpc::Status {
        code: Code::Unavailable as i32,
        message: "as the test says".to_owned(),
        details: Vec::new(),
    }
}

#[tokio::test]
async fn a_broker_that_is_not_for_tests_has_no_kit() {
    let broker = Broker::start().await;
    let refused = advance(&broker, by(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_week_passes_at_once() {
    let broker = broker().await;
    let mut worker = Worker::attach(&broker, "w").await;
    let begun = time(&broker).await;
    let task = submit_after(&broker, 7 * DAY_S).await;
    // It holds the clock while it runs, and is done when the clock has arrived.
    let (arrived, ()) = tokio::join!(advance(&broker, finished(task)), async {
        let got = worker.attempt().await;
        worker.succeed(&got, b"done").await;
    });
    let passed = arrived.unwrap() - begun;
    assert!((7 * DAY_S..7 * DAY_S + 60).contains(&passed), "{passed}");
    let done = get(&broker, task).await.unwrap();
    assert_eq!(done.state(), pb::TaskState::Succeeded);
    // Its retention is over, and it is gone.
    advance(&broker, by(60 * DAY_S)).await.unwrap();
    assert_eq!(get(&broker, task).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_runs_and_what_nobody_serves_holds_the_clock() {
    let broker = broker().await;
    let task = submit_after(&broker, 0).await;
    let hasty = kit::AdvanceClockRequest {
        patience: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..by(60)
    };
    let held = advance(&broker, hasty.clone()).await.unwrap_err();
    assert_eq!(
        (held.code(), reason(&held).as_str()),
        (Code::FailedPrecondition, "STATE_CONFLICT")
    );
    assert!(held.message().contains("no worker serves it"), "{held}");
    let mut worker = Worker::attach(&broker, "w").await;
    worker.attempt().await;
    until(&broker, task, pb::TaskState::Running).await;
    let held = advance(&broker, hasty).await.unwrap_err();
    assert!(held.message().contains("still run"), "{held}");
    // All the same: the attempt is over its time.
    let regardless = kit::AdvanceClockRequest {
        regardless: true,
        ..by(30 * DAY_S)
    };
    advance(&broker, regardless).await.unwrap();
    let Message::Stop(stop) = worker.other().await.unwrap() else {
        panic!("the attempt is not stopped")
    };
    assert_eq!(stop.entries[0].task, task);
}

#[tokio::test]
async fn a_task_that_is_unknown_or_cannot_end_holds_nobody() {
    let broker = broker().await;
    let unknown = advance(&broker, finished(77)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // A queue at rest: its task expires after all.
    let task = submit_after(&broker, DAY_S).await;
    let pause = pb::PauseQueueRequest {
        name: "test".to_owned(),
        ..pb::PauseQueueRequest::default()
    };
    broker.tasks().pause_queue(pause).await.unwrap();
    advance(&broker, finished(task)).await.unwrap();
    let expired = get(&broker, task).await.unwrap();
    assert_eq!(expired.state(), pb::TaskState::Expired);
}

#[tokio::test]
async fn attempts_fail_before_their_handler_runs_and_after() {
    let broker = broker().await;
    add(&broker, &[1], Action::FailBefore(unavailable())).await;
    add(&broker, &[2], Action::FailAfter(unavailable())).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let task = submit_after(&broker, 0).await;
    let (arrived, ()) = tokio::join!(advance(&broker, finished(task)), async {
        for attempt in [2, 3] {
            let got = worker.attempt().await;
            assert_eq!(got.extra.attempt, attempt);
            worker.outcomes(vec![(&got, Ok(b"done".to_vec()))]).await;
        }
    });
    arrived.unwrap();
    let done = get(&broker, task).await.unwrap();
    assert_eq!((done.state(), done.attempt), (pb::TaskState::Succeeded, 3));
    let listed = client(&broker).list_faults(kit::ListFaultsRequest {}).await;
    let struck: Vec<u32> = listed
        .unwrap()
        .into_inner()
        .faults
        .iter()
        .map(|f| f.struck)
        .collect();
    assert_eq!(struck, [1, 1]);
    client(&broker)
        .clear_faults(kit::ClearFaultsRequest {})
        .await
        .unwrap();
    let listed = client(&broker).list_faults(kit::ListFaultsRequest {}).await;
    assert!(listed.unwrap().into_inner().faults.is_empty());
}

#[tokio::test]
async fn a_stream_breaks_once_the_worker_has_the_attempt() {
    let broker = broker().await;
    add(&broker, &[1], Action::DropStream(kit::DropStream {})).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let task = submit_after(&broker, 0).await;
    worker.attempt().await;
    assert_eq!(worker.end().await.unwrap_err().code(), Code::Unavailable);
    let mut again = Worker::attach(&broker, "w").await;
    let (arrived, ()) = tokio::join!(advance(&broker, finished(task)), async {
        let got = again.attempt().await;
        again.succeed(&got, b"done").await;
    });
    arrived.unwrap();
    let done = get(&broker, task).await.unwrap();
    assert_eq!((done.state(), done.attempt), (pb::TaskState::Succeeded, 2));
}

#[tokio::test]
async fn a_lease_ends_and_what_the_handler_still_says_is_refused() {
    let broker = broker().await;
    add(&broker, &[1], Action::ExpireLease(kit::ExpireLease {})).await;
    let mut worker = Worker::attach(&broker, "w").await;
    let task = submit_after(&broker, 0).await;
    let late = worker.attempt().await;
    let Message::Stop(stop) = worker.other().await.unwrap() else {
        panic!("the attempt is not stopped")
    };
    assert_eq!(stop.entries[0].reason(), pb::StopReason::LeaseLost);
    let settled = worker.succeed(&late, b"too late").await;
    assert_eq!(settled.refused.len(), 1);
    let (arrived, ()) = tokio::join!(advance(&broker, finished(task)), async {
        let got = worker.attempt().await;
        worker.succeed(&got, b"done").await;
    });
    arrived.unwrap();
    let done = get(&broker, task).await.unwrap();
    assert_eq!(done.response.as_ref(), b"done");
}

#[tokio::test]
async fn nonsense_is_refused() {
    let broker = broker().await;
    let nothing = kit::AdvanceClockRequest::default();
    check_refusal(
        &advance(&broker, nothing).await.unwrap_err(),
        "INVALID_REQUEST",
        "until",
    );
    let back = advance(&broker, by(-1)).await.unwrap_err();
    check_refusal(&back, "INVALID_REQUEST", "by");
    let far = advance(&broker, by(366 * DAY_S)).await.unwrap_err();
    check_refusal(&far, "INVALID_REQUEST", "by");
    let well = rpc::Status::default();
    let refused = client(&broker)
        .add_fault(fault(&[], Action::FailAfter(well)))
        .await;
    check_refusal(
        &refused.unwrap_err(),
        "INVALID_REQUEST",
        "fault.fail_after.code",
    );
    let nowhere = kit::AddFaultRequest { fault: None };
    let refused = client(&broker).add_fault(nowhere).await;
    check_refusal(&refused.unwrap_err(), "INVALID_REQUEST", "fault.method");
}
