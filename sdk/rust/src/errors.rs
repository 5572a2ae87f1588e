//! Every error is a gRPC status; this module reads and makes those of Plait.
//!
//! A refusal by Plait carries `google.rpc.ErrorInfo` with the domain [`DOMAIN`] and a reason of [`ErrorReason`]. A
//! handler's own status, message, details and trailers arrive at the caller as they were. There is no error type to
//! learn: match on [`Status::code`], and on [`reason`] where the code is not enough.

use crate::metadata;
use crate::pb::google::rpc::{self, ErrorInfo, RetryInfo};
use crate::pb::v1::Failure;
use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

pub use crate::pb::v1::ErrorReason;

/// The domain of every `ErrorInfo` that Plait makes.
pub const DOMAIN: &str = "plait";

const PREFIX: &str = "ERROR_REASON_";
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The `ErrorInfo` of a status: Plait's where it has one, else the first.
#[must_use]
pub fn error_info(status: &Status) -> Option<ErrorInfo> {
    let mut found: Vec<ErrorInfo> = details(status, "google.rpc.ErrorInfo");
    let ours = found.iter().position(|info| info.domain == DOMAIN);
    (!found.is_empty()).then(|| found.swap_remove(ours.unwrap_or(0)))
}

/// Why Plait refused; `None` when the status is not Plait's own.
#[must_use]
pub fn reason(status: &Status) -> Option<ErrorReason> {
    let info = error_info(status).filter(|info| info.domain == DOMAIN)?;
    ErrorReason::from_str_name(&format!("{PREFIX}{}", info.reason))
}

/// How long to wait before trying again, when the status says so in `google.rpc.RetryInfo`.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Duration> {
    let found: Vec<RetryInfo> = details(status, "google.rpc.RetryInfo");
    Duration::try_from(found.first()?.retry_delay?).ok()
}

/// A refusal of Plait: the code that belongs to `reason`, and an `ErrorInfo` with every variable part of the message
/// in `metadata`.
#[must_use]
pub fn refusal(
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    let info = ErrorInfo {
        reason: reason.as_str_name().trim_start_matches(PREFIX).to_owned(),
        domain: DOMAIN.to_owned(),
        metadata: metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    };
    let message = message.into();
    let any = prost_types::Any {
        type_url: format!("{TYPE_PREFIX}google.rpc.ErrorInfo"),
        value: info.encode_to_vec(),
    };
    let code = code_of(reason);
    let details = rpc::Status {
        code: code.into(),
        message: message.clone(),
        details: vec![any],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// As `refusal`, with a `RetryInfo`.
pub(crate) fn refusal_after(
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: impl IntoIterator<Item = (&'static str, String)>,
    after: Duration,
) -> Status {
    let refused = refusal(reason, message, metadata);
    // Its own bytes.
    let mut status = rpc::Status::decode(refused.details()).unwrap_or_default();
    let info = RetryInfo {
        retry_delay: Some(crate::options::wire(after)),
    };
    status.details.push(prost_types::Any {
        type_url: format!("{TYPE_PREFIX}google.rpc.RetryInfo"),
        value: info.encode_to_vec(),
    });
    from_rpc(status)
}

/// The error that headers, or trailers, hold.
pub(crate) fn status_in(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The gRPC code that a reason always comes with.
#[must_use]
pub fn code_of(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::Unspecified => Code::Unknown,
        ErrorReason::LeaseLost | ErrorReason::VersionMismatch | ErrorReason::LeadershipLost => {
            Code::Aborted
        }
        ErrorReason::QueueFull | ErrorReason::SlowReader | ErrorReason::TooMany => {
            Code::ResourceExhausted
        }
        ErrorReason::BreakerOpen
        | ErrorReason::Draining
        | ErrorReason::SchedulerUnavailable
        | ErrorReason::WorkerLost
        | ErrorReason::LogFailed => Code::Unavailable,
        ErrorReason::KeyMissing
        | ErrorReason::PolicyInvalid
        | ErrorReason::TooLarge
        | ErrorReason::InvalidRequest => Code::InvalidArgument,
        ErrorReason::DuplicateKeyConflict => Code::AlreadyExists,
        ErrorReason::ContractIncompatible
        | ErrorReason::FlowDiverged
        | ErrorReason::MethodUnknown
        | ErrorReason::StateConflict => Code::FailedPrecondition,
        ErrorReason::TaskNotFound
        | ErrorReason::QueueNotFound
        | ErrorReason::ScheduleNotFound
        | ErrorReason::RolloutNotFound
        | ErrorReason::LimitNotFound
        | ErrorReason::FlagNotFound
        | ErrorReason::ShareNotFound => Code::NotFound,
        ErrorReason::TaskCancelled => Code::Cancelled,
        ErrorReason::TaskExpired | ErrorReason::AttemptTimedOut => Code::DeadlineExceeded,
        ErrorReason::PayloadLost => Code::DataLoss,
    }
}

/// Whether a failed attempt of a task is run again by the standard table; a method's policy may say otherwise.
#[must_use]
pub fn task_is_retried(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
    )
}

/// The details of one kind, those that can be read.
fn details<M: Message + Default>(status: &Status, name: &str) -> Vec<M> {
    let details = rpc::Status::decode(status.details()).map(|status| status.details);
    let found = details.unwrap_or_default().into_iter();
    found
        .filter(|any| any.type_url.rsplit('/').next() == Some(name))
        .filter_map(|any| M::decode(any.value.as_slice()).ok())
        .collect()
}

/// A status as it came inside a message.
pub(crate) fn from_rpc(status: rpc::Status) -> Status {
    let details = if status.details.is_empty() {
        Vec::new()
    } else {
        status.encode_to_vec()
    };
    Status::with_details(Code::from_i32(status.code), status.message, details.into())
}

/// The status that a handler returned, as the broker kept it.
pub(crate) fn from_failure(failure: Failure) -> Status {
    let code = Code::from_i32(i32::try_from(failure.code).unwrap_or(i32::MAX));
    let trailers = metadata::to_metadata_map(&failure.trailers);
    Status::with_details_and_metadata(code, failure.message, failure.details, trailers)
}

/// How an attempt ended: the response's bytes, or the handler's status.
pub(crate) type Ended = Result<Bytes, Box<Failure>>;

/// What the broker is told of a handler's failed response: `headers` are its trailers, or its headers where it sent
/// nothing else.
pub(crate) fn to_failure(headers: &HeaderMap) -> Option<Box<Failure>> {
    // A successful response ends here, without another look at its headers.
    if headers
        .get(Status::GRPC_STATUS)
        .is_none_or(|code| code == "0")
    {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    (status.code() != Code::Ok).then(|| failure(&status))
}

/// What the broker is told of a status.
pub(crate) fn failure(status: &Status) -> Box<Failure> {
    Box::new(Failure {
        index: 0,
        code: i32::from(status.code()).cast_unsigned(),
        message: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
        state: 0,
        trailers: metadata::from_metadata_map(status.metadata()),
    })
}

/// Names the task in a status that its caller gets.
pub(crate) fn name_task(status: &mut Status, task: crate::TaskId) {
    if let Ok(id) = task.to_string().parse() {
        status.metadata_mut().insert(metadata::TASK_ID_KEY, id);
    }
}

/// Whether the connection or the peer is in trouble, so that connecting again may help.
pub(crate) fn is_transient(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons() -> impl Iterator<Item = ErrorReason> {
        (1..100).map_while(|number| ErrorReason::try_from(number).ok())
    }

    #[test]
    fn every_refusal_is_read_back() {
        assert!(reasons().count() >= 25, "no number is left out");
        for reason in reasons() {
            let status = refusal(reason, "why", [("task", "t1".to_owned())]);
            assert_eq!(super::reason(&status), Some(reason));
            assert_eq!(status.code(), code_of(reason));
            let info = error_info(&status).expect("info");
            assert!(info.reason.len() <= 63 && !info.reason.starts_with(PREFIX));
            assert_eq!(info.metadata["task"], "t1");
        }
    }

    #[test]
    fn the_reason_of_another_domain_is_not_ours() {
        let mut status = rpc::Status::decode(refusal(ErrorReason::LeaseLost, "", []).details())
            .expect("details");
        let mut info = ErrorInfo::decode(status.details[0].value.as_slice()).expect("info");
        info.domain = "shop".to_owned();
        status.details[0].value = info.encode_to_vec();
        assert_eq!(reason(&from_rpc(status)), None);
        assert_eq!(reason(&Status::aborted("plain")), None);
    }

    #[test]
    fn a_handlers_status_survives_byte_for_byte() {
        let mut status = refusal(ErrorReason::QueueFull, "a \"quoted\" ünïcode % message", []);
        status
            .metadata_mut()
            .insert("x-failed-by", "me".parse().expect("ascii"));
        status.metadata_mut().insert_bin(
            "x-raw-bin",
            tonic::metadata::MetadataValue::from_bytes(&[0, 255]),
        );
        let headers = status.clone().into_http::<()>().headers().clone();
        let failure = to_failure(&headers).expect("a failure");
        assert_eq!(
            failure.trailers.len(),
            2,
            "reserved keys stay behind: {failure:?}"
        );
        let back = from_failure(*failure);
        assert_eq!(
            (back.code(), back.message(), back.details()),
            (status.code(), status.message(), status.details())
        );
        assert_eq!(
            back.metadata().get("x-failed-by"),
            status.metadata().get("x-failed-by")
        );
        assert_eq!(
            back.metadata().get_bin("x-raw-bin"),
            status.metadata().get_bin("x-raw-bin")
        );
    }

    #[test]
    fn an_ok_response_is_no_failure() {
        let headers = Status::ok("").into_http::<()>().headers().clone();
        assert_eq!(to_failure(&headers), None);
    }

    #[test]
    fn the_standard_table_of_tasks() {
        let retried = (0..17).filter(|code| task_is_retried(Code::from_i32(*code)));
        assert_eq!(retried.collect::<Vec<_>>(), [2, 4, 8, 10, 13, 14]);
    }
}
