//! The one place where refusals become gRPC statuses: code, reason, metadata, details.

use std::time::Duration;

use bytes::Bytes;
use plait::pb::google::rpc;
use plait::pb::v1::ErrorReason;
use plait_broker_core::effect::Error;
use plait_broker_core::ids::TaskId;
use plait_broker_core::record::Reason;
use prost::Message;
use tonic::{Code, Status};

use crate::states;

/// The domain of all ErrorInfo of ours.
pub const DOMAIN: &str = "plait";

const REASON_PREFIX: &str = "ERROR_REASON_";

/// An error on its way out: a status that is not yet bytes.
#[derive(Debug, Clone)]
pub struct Refused {
    code: Code,
    message: String,
    details: Vec<prost_types::Any>,
}

impl Refused {
    /// An error with its reason.
    pub fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self::with(code, reason, message, &[])
    }

    /// An error with its reason and the variable parts of the message.
    pub fn with(
        code: Code,
        reason: ErrorReason,
        message: impl Into<String>,
        metadata: &[(&str, String)],
    ) -> Self {
        let name = reason.as_str_name();
        let info = rpc::ErrorInfo {
            reason: name.strip_prefix(REASON_PREFIX).unwrap_or(name).to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: metadata
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
        };
        let details = vec![any("google.rpc.ErrorInfo", &info)];
        Self {
            code,
            message: message.into(),
            details,
        }
    }

    /// Somebody else's error, passed on.
    pub fn relayed(status: rpc::Status) -> Self {
        let rpc::Status {
            code,
            message,
            details,
        } = status;
        Self {
            code: Code::from_i32(code),
            message,
            details,
        }
    }

    /// Says when to come again.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        let retry_delay = prost_types::Duration::try_from(pause).ok();
        self.details
            .push(any("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay }));
        self
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        let violation = rpc::bad_request::FieldViolation {
            field: field.into(),
            description: problem.into(),
            ..Default::default()
        };
        let bad = rpc::BadRequest {
            field_violations: vec![violation],
        };
        self.details.push(any("google.rpc.BadRequest", &bad));
        self
    }

    /// As a message inside an answer.
    pub fn into_proto(self) -> rpc::Status {
        rpc::Status {
            code: self.code as i32,
            message: self.message,
            details: self.details,
        }
    }

    /// The bytes of grpc-status-details-bin.
    pub fn details(self) -> Bytes {
        self.into_proto().encode_to_vec().into()
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let (code, message) = (refused.code, refused.message.clone());
        Self::with_details(code, message, refused.details())
    }
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

/// A malformed request; names the field.
pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Refused {
    let (field, problem) = (field.into(), problem.into());
    let message = format!("{field}: {problem}");
    Refused::with(
        Code::InvalidArgument,
        ErrorReason::InvalidRequest,
        message,
        &[("field", field.clone())],
    )
    .field(field, problem)
}

/// Something over its limit; sizes in bytes.
pub fn too_large(field: impl Into<String>, size: usize, limit: usize) -> Refused {
    let field = field.into();
    let message = format!("{field} has {size} bytes; the limit is {limit}");
    let metadata = [
        ("field", field.clone()),
        ("limit", limit.to_string()),
        ("size", size.to_string()),
    ];
    Refused::with(
        Code::InvalidArgument,
        ErrorReason::TooLarge,
        message,
        &metadata,
    )
    .field(field, format!("at most {limit} bytes"))
}

/// What a peer's message was refused with before we saw it. A message over the limit is told in our words: tonic's have
/// no reason.
pub fn incoming(status: Status) -> Status {
    match oversize(&status) {
        Some((size, limit)) => too_large("message", size, limit).into(),
        None => status,
    }
}

/// Size and limit of a message that tonic did not decode. Its text is all that tells them, so a test holds it.
fn oversize(status: &Status) -> Option<(usize, usize)> {
    let text = status.message();
    let text = text.strip_prefix("Error, decoded message length too large: found ")?;
    let (size, text) = text.split_once(" bytes, the limit is: ")?;
    let limit = text.strip_suffix(" bytes")?;
    Some((size.parse().ok()?, limit.parse().ok()?))
}

/// A task's request, response or metadata that the log cannot give back as it was written.
pub fn payload_lost(task: TaskId, payload: &'static str) -> Refused {
    let message =
        format!("the {payload} of task {task} is lost: the log's bytes are not what was written");
    let metadata = [("task", task.to_string()), ("payload", payload.to_owned())];
    Refused::with(Code::DataLoss, ErrorReason::PayloadLost, message, &metadata)
}

/// A stream whose reader let too much wait.
pub fn slow_reader(limit: usize) -> Status {
    let message = format!("more than {limit} bytes wait to be read: connect again, await the rest");
    let metadata = [("limit", limit.to_string())];
    Refused::with(
        Code::ResourceExhausted,
        ErrorReason::SlowReader,
        message,
        &metadata,
    )
    .into()
}

/// The command of a scheduler that no longer leads. It changed nothing.
pub fn leadership_lost(epoch: u64) -> Refused {
    let message = format!("another scheduler leads by now, in epoch {epoch}");
    let metadata = [("epoch", epoch.to_string())];
    Refused::with(
        Code::Aborted,
        ErrorReason::LeadershipLost,
        message,
        &metadata,
    )
}

/// The broker goes down and takes nothing new.
pub fn draining() -> Refused {
    Refused::new(
        Code::Unavailable,
        ErrorReason::Draining,
        "the broker is draining",
    )
    .retry_after(Duration::from_secs(1))
}

/// The log could not be written.
pub fn log_failed() -> Refused {
    let message = "the log could not be written; the broker stops";
    Refused::new(Code::Unavailable, ErrorReason::LogFailed, message)
}

/// The state machine's refusal as the wire knows it.
pub fn refused(error: &Error) -> Refused {
    let (code, reason) = kind(error);
    let refused = Refused::with(code, reason, error.to_string(), &metadata(error));
    match error {
        Error::QueueFull { retry_after_ms, .. } => {
            refused.retry_after(Duration::from_millis(*retry_after_ms))
        }
        Error::Invalid { field, problem } => refused.field(*field, problem.to_string()),
        _ => refused,
    }
}

fn kind(error: &Error) -> (Code, ErrorReason) {
    match error {
        Error::LeaseLost { .. } => (Code::Aborted, ErrorReason::LeaseLost),
        Error::QueueFull { .. } => (Code::ResourceExhausted, ErrorReason::QueueFull),
        Error::KeyMissing { .. } => (Code::InvalidArgument, ErrorReason::KeyMissing),
        Error::DuplicateKeyConflict { .. } => {
            (Code::AlreadyExists, ErrorReason::DuplicateKeyConflict)
        }
        Error::FlowDiverged { .. } => (Code::FailedPrecondition, ErrorReason::FlowDiverged),
        Error::MethodUnknown { .. } => (Code::FailedPrecondition, ErrorReason::MethodUnknown),
        Error::TaskNotFound { .. } => (Code::NotFound, ErrorReason::TaskNotFound),
        Error::QueueNotFound { .. } => (Code::NotFound, ErrorReason::QueueNotFound),
        Error::StateConflict { .. } => (Code::FailedPrecondition, ErrorReason::StateConflict),
        Error::VersionMismatch { .. } => (Code::Aborted, ErrorReason::VersionMismatch),
        // The other stream took over: reconnecting is right only for the process that lost by mistake.
        Error::WorkerReplaced { .. } => (Code::Aborted, ErrorReason::LeaseLost),
        Error::SequenceGap { .. } | Error::Invalid { .. } => {
            (Code::InvalidArgument, ErrorReason::InvalidRequest)
        }
    }
}

fn metadata(error: &Error) -> Vec<(&'static str, String)> {
    match error {
        Error::LeaseLost { task } | Error::TaskNotFound { task } => {
            vec![("task", task.to_string())]
        }
        Error::QueueFull { queue, limit, .. } => {
            vec![("queue", queue.to_string()), ("limit", limit.to_string())]
        }
        Error::KeyMissing { method, key } => {
            vec![("method", method.to_string()), ("key", (*key).to_owned())]
        }
        Error::DuplicateKeyConflict { task, key } => {
            vec![("task", task.to_string()), ("key", key.to_string())]
        }
        Error::FlowDiverged { parent, child } => {
            vec![("task", parent.to_string()), ("child", child.to_string())]
        }
        Error::MethodUnknown { method } => vec![("method", method.to_string())],
        Error::QueueNotFound { queue } => vec![("queue", queue.to_string())],
        Error::StateConflict { task, state } => {
            let state = states::to_wire(*state).as_str_name();
            let state = state.strip_prefix("TASK_STATE_").unwrap_or(state);
            vec![("task", task.to_string()), ("state", state.to_owned())]
        }
        Error::VersionMismatch { version } => vec![("version", version.to_string())],
        Error::SequenceGap { sequence, last } => {
            vec![
                ("sequence", sequence.to_string()),
                ("last", last.to_string()),
            ]
        }
        Error::WorkerReplaced { worker } => vec![("worker", worker.to_string())],
        Error::Invalid { field, .. } => vec![("field", (*field).to_owned())],
    }
}

/// What google.rpc.RetryInfo in the bytes of grpc-status-details-bin asks for, in milliseconds; `u64::MAX` when the
/// delay is negative or unreadable, which means: do not retry.
pub fn retry_info_ms(details: &[u8]) -> Option<u64> {
    if details.is_empty() {
        return None;
    }
    let status = rpc::Status::decode(details).ok()?;
    let any = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = rpc::RetryInfo::decode(any.value.as_slice())
        .ok()
        .and_then(|info| info.retry_delay);
    let delay = delay.and_then(|delay| Duration::try_from(delay).ok());
    Some(delay.map_or(u64::MAX, |delay| {
        u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
    }))
}

/// ErrorInfo for a failure that the state machine made.
pub fn made_failure(reason: Reason, code: u32, message: &str, task: TaskId) -> Refused {
    let name = format!("{REASON_PREFIX}{}", reason.name());
    let wire = ErrorReason::from_str_name(&name).unwrap_or(ErrorReason::Unspecified);
    let mut metadata = vec![("task", task.to_string())];
    metadata.extend(reason.cause().map(|cause| ("cause", cause.to_owned())));
    Refused::with(Code::from_i32(code as i32), wire, message, &metadata)
}

/// The same client opened its session on another stream.
pub fn session_replaced() -> Status {
    Refused::new(
        Code::Aborted,
        ErrorReason::StateConflict,
        "the session was opened again",
    )
    .into()
}

/// The broker's inbox is full and stays so.
pub fn overloaded() -> Refused {
    let message = "the broker takes no more at the moment";
    Refused::new(Code::ResourceExhausted, ErrorReason::QueueFull, message)
        .retry_after(Duration::from_millis(500))
}
