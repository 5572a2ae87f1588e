//! A real broker process and raw protocol clients for it. Nothing here waits by sleeping.

pub(crate) mod calls;
pub(crate) mod exposition;
mod process;
mod scheduler;
mod submitter;
mod worker;

use std::time::Duration;

use bytes::Bytes;
use plait::pb::google::rpc;
use plait::pb::v1 as pb;
use prost::Message;

pub(crate) use process::{Broker, Setup};
pub(crate) use scheduler::{Scheduler, policy};
pub(crate) use submitter::{Ended, Submitter};
pub(crate) use worker::{Got, Worker, hello};

/// The method that most tests use.
pub(crate) const ECHO: &str = "/test.Echo/Say";

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// A frame of echoes.
pub(crate) fn frame<P: Into<Bytes>>(payloads: impl IntoIterator<Item = P>) -> pb::SubmitFrame {
    pb::SubmitFrame {
        methods: vec![ECHO.to_owned()],
        payloads: payloads.into_iter().map(Into::into).collect(),
        ..pb::SubmitFrame::default()
    }
}

/// The text of a task number.
pub(crate) fn id(task: u64) -> String {
    format!("t{task:016x}")
}

/// The reason in a status's ErrorInfo; empty without one.
pub(crate) fn reason(status: &tonic::Status) -> String {
    info(status.details())
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// The ErrorInfo in the bytes of grpc-status-details-bin.
pub(crate) fn info(details: &[u8]) -> Option<rpc::ErrorInfo> {
    let status = rpc::Status::decode(details).unwrap();
    detail(&status, "google.rpc.ErrorInfo")
}

/// A detail of a status by the name of its type.
pub(crate) fn detail<M: Message + Default>(status: &rpc::Status, name: &str) -> Option<M> {
    let any = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with(name))?;
    Some(M::decode(any.value.as_slice()).unwrap())
}

/// The reason in a refusal.
pub(crate) fn refusal_reason(refusal: &pb::Refusal) -> String {
    let status = refusal.status.as_ref().unwrap();
    detail::<rpc::ErrorInfo>(status, "google.rpc.ErrorInfo")
        .unwrap()
        .reason
}

/// Checks a refusal: its reason, and that BadRequest names the field.
pub(crate) fn check_refusal(status: &tonic::Status, expected: &str, field: &str) {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert_eq!(reason(status), expected, "{status}");
    let details = rpc::Status::decode(status.details()).unwrap();
    let bad: rpc::BadRequest = detail(&details, "google.rpc.BadRequest").unwrap();
    assert_eq!(bad.field_violations[0].field, field, "{status}");
}
