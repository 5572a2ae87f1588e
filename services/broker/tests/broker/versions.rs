//! Several versions of a contract: which workers get which tasks, and whose policies hold.

use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait::pb::v1 as pb;
use tonic::Code;

use crate::support::{
    Broker, ECHO, Scheduler, Setup, Submitter, Worker, frame, hello, id, policy, refusal_reason,
};

const LATER: &str = "/test.Echo/Say@2";

/// A policy with its routes.
fn routed(route: &str, served: &[&str], max_attempts: u32) -> control::MethodPolicy {
    let mut policy = policy(ECHO);
    let info = policy.info.as_mut().unwrap();
    route.clone_into(&mut info.route);
    info.served_routes = served.iter().map(ToString::to_string).collect();
    policy.max_attempts = max_attempts;
    policy
}

fn announcement(set: &'static str) -> pb::AnnounceContractRequest {
    pb::AnnounceContractRequest {
        descriptor_set: Bytes::from_static(set.as_bytes()),
        services: vec!["test.Echo".to_owned()],
        for_worker: true,
        ..pb::AnnounceContractRequest::default()
    }
}

/// Announces; the scheduler answers with this policy, in force or beside what is.
async fn announce(
    broker: &Broker,
    scheduler: &mut Scheduler,
    request: pb::AnnounceContractRequest,
    policy: control::MethodPolicy,
    beside: bool,
) -> pb::AnnounceContractResponse {
    let mut contracts = broker.contracts();
    let announcing = contracts.announce_contract(request);
    let deciding = async {
        let announced = scheduler.announced().await;
        let decision = control::DecideContractRequest {
            announcement: announced.announcement,
            policies: vec![policy],
            beside_services: announced.services.into_iter().filter(|_| beside).collect(),
            ..control::DecideContractRequest::default()
        };
        broker.control().decide_contract(decision).await.unwrap();
    };
    let (answer, ()) = tokio::join!(announcing, deciding);
    answer.unwrap().into_inner()
}

async fn in_force(broker: &Broker) -> pb::MethodInfo {
    let request = pb::ResolveMethodsRequest {
        methods: vec![ECHO.to_owned()],
    };
    let answer = broker.contracts().resolve_methods(request).await.unwrap();
    answer.into_inner().methods.remove(0)
}

fn to(route: &str, payload: &'static str) -> pb::SubmitFrame {
    pb::SubmitFrame {
        methods: vec![route.to_owned()],
        ..frame([payload])
    }
}

fn serving(worker: &str, answer: &pb::AnnounceContractResponse) -> pb::WorkerHello {
    pb::WorkerHello {
        methods: answer.methods[0].served_routes.clone(),
        contracts: vec![answer.digest.clone()],
        ..hello(worker)
    }
}

/// The first version in force, then a second one that knows more.
async fn two() -> (Broker, Scheduler, [pb::AnnounceContractResponse; 2]) {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let mut at = async |set, policy| {
        announce(&broker, &mut scheduler, announcement(set), policy, false).await
    };
    let first = at("v1", routed(ECHO, &[ECHO], 3)).await;
    let second = at("v2", routed(LATER, &[ECHO, LATER], 5)).await;
    (broker, scheduler, [first, second])
}

#[tokio::test]
async fn tasks_of_a_later_contract_wait_for_a_worker_that_knows_it() {
    let (mut broker, _scheduler, [first, second]) = two().await;
    assert_eq!(in_force(&broker).await.route, LATER);
    let mut old = Worker::attach_as(&broker, serving("old", &first))
        .await
        .unwrap();
    let mut submitter = Submitter::open(&broker, 1).await;
    let later = submitter.accept(1, to(LATER, "later")).await[0];
    let plain = submitter.accept(2, to(ECHO, "plain")).await[0];
    let got = old.attempt().await;
    assert_eq!(got.task, plain);
    old.succeed(&got, b"done").await;
    broker.crash_and_restart().await;
    let mut new = Worker::attach_as(&broker, serving("new", &second))
        .await
        .unwrap();
    let got = new.attempt().await;
    assert_eq!((got.task, got.method), (later, 1));
    new.succeed(&got, b"done").await;
    let request = pb::GetTaskRequest {
        id: id(later),
        ..pb::GetTaskRequest::default()
    };
    let task = broker.tasks().get_task(request).await.unwrap().into_inner();
    assert_eq!(task.task.unwrap().method, ECHO);
}

#[tokio::test]
async fn a_contract_beside_another_changes_no_policy() {
    let (mut broker, mut scheduler, [first, second]) = two().await;
    let before = in_force(&broker).await;
    let policy = routed(ECHO, &[ECHO], 3);
    let again = announce(&broker, &mut scheduler, announcement("v1"), policy, true).await;
    assert_eq!(again.digest, first.digest);
    assert_eq!(again.methods[0].route, ECHO);
    assert_eq!(again.methods[0].contract, second.methods[0].contract);
    assert_eq!(in_force(&broker).await, before);
    // A route that only it has is known, too.
    let own = routed("/test.Echo/Say@3", &["/test.Echo/Say@3"], 9);
    announce(&broker, &mut scheduler, announcement("v3"), own, true).await;
    assert_eq!(in_force(&broker).await, before);
    let mut submitter = Submitter::open(&broker, 1).await;
    submitter.accept(1, to("/test.Echo/Say@3", "own")).await;
    // What was decided is known without a scheduler, and after a crash.
    drop(scheduler);
    broker.crash_and_restart().await;
    for (set, route) in [("v1", ECHO), ("v2", LATER), ("v3", "/test.Echo/Say@3")] {
        let answer = broker
            .contracts()
            .announce_contract(announcement(set))
            .await;
        assert_eq!(answer.unwrap().into_inner().methods[0].route, route);
    }
    assert_eq!(in_force(&broker).await, before);
}

#[tokio::test]
async fn a_known_contract_of_a_submitter_asks_nobody() {
    let (broker, _scheduler, [first, _]) = two().await;
    let request = pb::AnnounceContractRequest {
        for_worker: false,
        ..announcement("v1")
    };
    let answer = broker.contracts().announce_contract(request).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!(answer.methods[0].route, first.methods[0].route);
    assert_eq!(in_force(&broker).await.route, LATER);
}

#[tokio::test]
async fn routes_that_are_none_are_refused() {
    let (broker, mut scheduler, _) = two().await;
    let mut submitter = Submitter::open(&broker, 1).await;
    for (sequence, route, reason) in [
        (1, "/test.Echo/Say@1", "INVALID_REQUEST"),
        (2, "/test.Echo/Say@02", "INVALID_REQUEST"),
        (3, "/test.Echo/Say@", "INVALID_REQUEST"),
        (4, "/test.Echo/Say@7", "METHOD_UNKNOWN"),
    ] {
        submitter.submit(sequence, to(route, "no")).await;
        let accepted = submitter.accepted(sequence).await.accepted.unwrap();
        assert_eq!(refusal_reason(&accepted.refusals[0]), reason, "{route}");
    }
    let bad = pb::WorkerHello {
        contracts: vec!["no digest".to_owned()],
        ..hello("w")
    };
    let refused = Worker::attach_as(&broker, bad).await.err();
    assert_eq!(refused.unwrap().code(), Code::InvalidArgument);
    let mut contracts = broker.contracts();
    let announcing = contracts.announce_contract(announcement("v4"));
    let deciding = async {
        let announcement = scheduler.announced().await.announcement;
        let decision = |route| control::DecideContractRequest {
            announcement,
            policies: vec![routed(route, &[ECHO], 3)],
            ..control::DecideContractRequest::default()
        };
        let other = broker
            .control()
            .decide_contract(decision("/test.Echo/Other@2"))
            .await;
        assert_eq!(other.unwrap_err().code(), Code::InvalidArgument);
        broker
            .control()
            .decide_contract(decision(ECHO))
            .await
            .unwrap();
    };
    let (announced, ()) = tokio::join!(announcing, deciding);
    announced.unwrap();
}

#[tokio::test]
async fn the_scheduler_is_told_what_a_worker_announced() {
    let (broker, mut scheduler, [_, second]) = two().await;
    let _worker = Worker::attach_as(&broker, serving("new", &second))
        .await
        .unwrap();
    let attached = scheduler
        .find(|event| match event {
            control::observe_response::Event::WorkerAttached(attached) => Some(attached),
            _ => None,
        })
        .await;
    assert_eq!(attached.methods, [ECHO, LATER]);
    assert_eq!(attached.contracts, [second.digest]);
}
