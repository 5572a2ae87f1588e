//! Making methods known: the scheduler decides once, the broker remembers.

use bytes::Bytes;
use plait::pb::control::v1 as control;
use plait::pb::google::rpc;
use plait::pb::v1 as pb;
use tonic::{Code, Status};

use crate::support::{Broker, ECHO, Scheduler, Setup, policy, reason, soon};

fn announcement(set: &'static str, validate_only: bool) -> pb::AnnounceContractRequest {
    pb::AnnounceContractRequest {
        descriptor_set: Bytes::from_static(set.as_bytes()),
        services: vec!["test.Echo".to_owned()],
        validate_only,
        ..pb::AnnounceContractRequest::default()
    }
}

async fn announce(
    broker: &Broker,
    request: pb::AnnounceContractRequest,
) -> Result<Vec<pb::MethodInfo>, Status> {
    let answer = broker.contracts().announce_contract(request).await?;
    Ok(answer.into_inner().methods)
}

async fn decide(
    broker: &Broker,
    announcement: u64,
    policies: Vec<control::MethodPolicy>,
) -> Result<(), Status> {
    let request = control::DecideContractRequest {
        announcement,
        policies,
        refusal: None,
        ..control::DecideContractRequest::default()
    };
    broker.control().decide_contract(request).await.map(drop)
}

#[tokio::test]
async fn a_contract_is_decided_once_and_then_known_without_a_scheduler() {
    let mut broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let announcing = announce(&broker, announcement("v1", false));
    let deciding = async {
        let announced = scheduler.announced().await;
        assert_eq!(announced.descriptor_set.as_ref(), b"v1");
        assert_eq!(announced.services, ["test.Echo"]);
        // The SHA-256 of "v1".
        assert!(
            announced
                .digest
                .starts_with("3bfc269594ef649228e9a74bab00f042")
        );
        decide(&broker, announced.announcement, vec![policy(ECHO)])
            .await
            .unwrap();
    };
    let (first, ()) = tokio::join!(announcing, deciding);
    let first = first.unwrap();
    assert_eq!((first.len(), first[0].method.as_str()), (1, ECHO));
    drop(scheduler);
    assert_eq!(
        announce(&broker, announcement("v1", false)).await.unwrap(),
        first
    );
    broker.crash_and_restart().await;
    assert_eq!(
        announce(&broker, announcement("v1", false)).await.unwrap(),
        first
    );
    let request = pb::GetContractRequest {
        service: "test.Echo".to_owned(),
    };
    let contract = broker
        .contracts()
        .get_contract(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (contract.descriptor_set.as_ref(), contract.methods),
        (b"v1".as_slice(), first)
    );
}

#[tokio::test]
async fn a_new_contract_without_a_scheduler_is_unavailable_in_time() {
    let broker = Broker::empty(Setup::default().with("DECISION_TIMEOUT", "50ms")).await;
    let status = soon("a refusal", announce(&broker, announcement("v1", false)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "SCHEDULER_UNAVAILABLE");
}

#[tokio::test]
async fn a_scheduler_that_comes_later_finds_what_waits() {
    let broker = Broker::empty(Setup::default()).await;
    let announcing = announce(&broker, announcement("v1", false));
    let deciding = async {
        let mut scheduler = Scheduler::observe(&broker).await;
        let announced = scheduler.announced().await;
        decide(&broker, announced.announcement, vec![policy(ECHO)])
            .await
            .unwrap();
    };
    let (announced, ()) = tokio::join!(announcing, deciding);
    assert_eq!(announced.unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_comes_with_the_scheduler_s_details() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let info = rpc::ErrorInfo {
        reason: "POLICY_INVALID".to_owned(),
        domain: "plait".to_owned(),
        ..rpc::ErrorInfo::default()
    };
    let refusal = rpc::Status {
        code: Code::InvalidArgument as i32,
        message: "echo.proto: Say: deadline".to_owned(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: prost::Message::encode_to_vec(&info),
        }],
    };
    let announcing = announce(&broker, announcement("bad", false));
    let deciding = async {
        let announcement = scheduler.announced().await.announcement;
        let decision = control::DecideContractRequest {
            announcement,
            policies: Vec::new(),
            refusal: Some(refusal),
            ..control::DecideContractRequest::default()
        };
        broker.control().decide_contract(decision).await.unwrap();
    };
    let (announced, ()) = tokio::join!(announcing, deciding);
    let status = announced.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "echo.proto: Say: deadline")
    );
    assert_eq!(reason(&status), "POLICY_INVALID");
}

#[tokio::test]
async fn a_check_registers_nothing() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let announcing = announce(&broker, announcement("v1", true));
    let deciding = async {
        let announced = scheduler.announced().await;
        assert!(announced.validate_only);
        decide(&broker, announced.announcement, vec![policy(ECHO)])
            .await
            .unwrap();
    };
    let (announced, ()) = tokio::join!(announcing, deciding);
    assert_eq!(announced.unwrap().len(), 1);
    let methods = pb::ResolveMethodsRequest {
        methods: vec![ECHO.to_owned()],
    };
    let found = broker
        .contracts()
        .resolve_methods(methods)
        .await
        .unwrap()
        .into_inner();
    assert!(found.methods.is_empty());
    let request = pb::GetContractRequest {
        service: "test.Echo".to_owned(),
    };
    let status = broker.contracts().get_contract(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn the_same_contract_of_many_workers_is_decided_once() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let announcing = async {
        tokio::join!(
            announce(&broker, announcement("v1", false)),
            announce(&broker, announcement("v1", false)),
        )
    };
    let deciding = async {
        let first = scheduler.announced().await.announcement;
        decide(&broker, first, vec![policy(ECHO)]).await.unwrap();
        // What is decided does not wait any more.
        let status = decide(&broker, first, vec![policy(ECHO)])
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
    };
    let ((one, two), ()) = soon("a decision", async { tokio::join!(announcing, deciding) }).await;
    assert_eq!(one.unwrap(), two.unwrap());
}

#[tokio::test]
async fn a_policy_for_another_service_is_refused() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let announcing = announce(&broker, announcement("v1", false));
    let deciding = async {
        let announcement = scheduler.announced().await.announcement;
        let other = vec![policy("/test.EchoOther/Say")];
        let status = decide(&broker, announcement, other).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        decide(&broker, announcement, vec![policy(ECHO)])
            .await
            .unwrap();
    };
    let (announced, ()) = tokio::join!(announcing, deciding);
    announced.unwrap();
}

#[tokio::test]
async fn contracts_are_listed_by_pages() {
    let broker = Broker::empty(Setup::default()).await;
    let mut scheduler = Scheduler::observe(&broker).await;
    for service in ["a.A", "b.B", "c.C"] {
        scheduler
            .declare(&broker, vec![policy(&format!("/{service}/Do"))])
            .await;
    }
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListContractsRequest {
            page_size: 2,
            page_token,
        };
        let page = broker
            .contracts()
            .list_contracts(request)
            .await
            .unwrap()
            .into_inner();
        found.extend(page.contracts.into_iter().map(|contract| contract.service));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["a.A", "b.B", "c.C"]);
}
