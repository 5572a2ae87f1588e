//! A scheduler that another one has taken the lead from changes nothing.

use plait::pb::control::v1 as control;
use plait::pb::v1 as pb;
use tonic::{Code, IntoRequest, Request, Status};

use crate::support::{Broker, ECHO, Scheduler, Worker, info, policy, reason, soon};

const LEADER: &str = "scheduler/leader";

/// A request of the scheduler of this epoch.
fn of<T>(epoch: u64, message: T) -> Request<T> {
    let mut request = message.into_request();
    let value = epoch.to_string().parse().unwrap();
    request
        .metadata_mut()
        .insert("plait-scheduler-epoch", value);
    request
}

fn put(key: &str, expected_version: Option<u64>) -> control::PutEntryRequest {
    control::PutEntryRequest {
        key: key.to_owned(),
        value: b"v".as_slice().into(),
        expected_version,
    }
}

/// Takes the lead from whoever has it; the epoch.
async fn lead(broker: &Broker, from: u64) -> u64 {
    let request = put(LEADER, Some(from));
    let answer = broker.key_values().put_entry(request).await.unwrap();
    answer.into_inner().version
}

fn gates() -> control::SetGatesRequest {
    let gate = control::MethodGate {
        method: ECHO.to_owned(),
        permits: Some(0),
        valid_for: prost_types::Duration::try_from(std::time::Duration::from_secs(60)).ok(),
    };
    control::SetGatesRequest { gates: vec![gate] }
}

fn windows() -> control::SetWindowsRequest {
    let window = control::WorkerWindow {
        worker: "w".to_owned(),
        window: 1,
    };
    control::SetWindowsRequest {
        windows: vec![window],
    }
}

fn worker_gates() -> control::SetWorkerGatesRequest {
    let gate = control::WorkerGate {
        worker: "w".to_owned(),
        ..control::WorkerGate::default()
    };
    control::SetWorkerGatesRequest { gates: vec![gate] }
}

fn limits() -> control::SetLimitsRequest {
    let limits = control::MethodLimits {
        method: ECHO.to_owned(),
        concurrency_limit: 7,
        ..control::MethodLimits::default()
    };
    control::SetLimitsRequest {
        limits: vec![limits],
    }
}

fn weights() -> control::SetWeightsRequest {
    control::SetWeightsRequest {
        method: ECHO.to_owned(),
        weights: Vec::new(),
    }
}

fn delete(key: &str) -> control::DeleteEntryRequest {
    control::DeleteEntryRequest {
        key: key.to_owned(),
        expected_version: None,
    }
}

/// Every command under an epoch, as it ends.
async fn commands(broker: &Broker, epoch: u64) -> Vec<Result<(), Status>> {
    let (mut control, mut keys) = (broker.control(), broker.key_values());
    let observe = control::ObserveRequest::default();
    vec![
        control.set_windows(of(epoch, windows())).await.map(drop),
        control.set_gates(of(epoch, gates())).await.map(drop),
        control
            .set_worker_gates(of(epoch, worker_gates()))
            .await
            .map(drop),
        control.set_limits(of(epoch, limits())).await.map(drop),
        control.set_weights(of(epoch, weights())).await.map(drop),
        keys.put_entry(of(epoch, put("k", None))).await.map(drop),
        keys.delete_entry(of(epoch, delete("k"))).await.map(drop),
        control.observe(of(epoch, observe)).await.map(drop),
    ]
}

fn assert_lost(status: &Status, epoch: u64) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::Aborted, "LEADERSHIP_LOST")
    );
    let metadata = info(status.details()).unwrap().metadata;
    assert_eq!(metadata["epoch"], epoch.to_string());
}

#[tokio::test]
async fn commands_of_an_older_epoch_are_refused_and_change_nothing() {
    let mut broker = Broker::start().await;
    let _worker = Worker::attach(&broker, "w").await;
    let old = lead(&broker, 0).await;
    for done in commands(&broker, old).await {
        done.unwrap();
    }
    broker.key_values().put_entry(put("k", None)).await.unwrap();
    let new = lead(&broker, old).await;
    assert!(new > old);
    for refused in commands(&broker, old).await {
        assert_lost(&refused.unwrap_err(), new);
    }
    let request = control::GetEntryRequest {
        key: "k".to_owned(),
    };
    let kept = broker.key_values().get_entry(request).await.unwrap();
    assert!(kept.into_inner().entry.is_some());
    // The epoch is in the log: a restart of the broker brings no old leader back.
    broker.crash_and_restart().await;
    for refused in commands(&broker, old).await {
        assert_lost(&refused.unwrap_err(), new);
    }
    for done in commands(&broker, new).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_contract_is_decided_by_the_present_leader_only() {
    let broker = Broker::start().await;
    let mut scheduler = Scheduler::observe(&broker).await;
    let old = lead(&broker, 0).await;
    let new = lead(&broker, old).await;
    let method = "/late.S/M";
    let request = pb::AnnounceContractRequest {
        descriptor_set: b"late".as_slice().into(),
        services: vec!["late.S".to_owned()],
        ..pb::AnnounceContractRequest::default()
    };
    let mut contracts = broker.contracts();
    let announcing = tokio::spawn(async move { contracts.announce_contract(request).await });
    let decision = control::DecideContractRequest {
        announcement: scheduler.announced().await.announcement,
        policies: vec![policy(method)],
        ..control::DecideContractRequest::default()
    };
    let mut refusal = decision.clone();
    refusal.refusal = Some(plait::pb::google::rpc::Status {
        code: Code::InvalidArgument as i32,
        ..Default::default()
    });
    for late in [decision.clone(), refusal] {
        let refused = broker.control().decide_contract(of(old, late)).await;
        assert_lost(&refused.unwrap_err(), new);
    }
    // It still waits, and is decided once.
    let decided = broker.control().decide_contract(of(new, decision)).await;
    decided.unwrap();
    let answer = soon("the verdict", announcing).await.unwrap().unwrap();
    assert_eq!(answer.into_inner().methods[0].method, method);
}

#[tokio::test]
async fn an_epoch_that_is_no_number_is_refused() {
    let broker = Broker::start().await;
    let mut request = windows().into_request();
    request
        .metadata_mut()
        .insert("plait-scheduler-epoch", "newest".parse().unwrap());
    let status = broker.control().set_windows(request).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_REQUEST");
}
