//! Failures of attempts and tasks, in and out.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::google::rpc;
use plait::pb::plait::log::v1::Envelope;
use plait::pb::v1 as pb;
use plait_broker_core::effect::TaskState;
use plait_broker_core::ids::TaskId;
use plait_broker_core::record::Failure;
use prost::Message;
use tonic::Code;

use super::options;
use crate::limits::Limits;
use crate::states;
use crate::status::{self, Refused, too_large};

/// The longest message that is kept; the rest is cut off.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// A handler's failure as it is kept.
pub(super) fn incoming(failure: pb::Failure, limits: &Limits) -> Failure {
    // 0 is success and cannot be a failure; what is above 16 is no gRPC code.
    let code = if (1..=16).contains(&failure.code) {
        failure.code
    } else {
        Code::Unknown as u32
    };
    let fits = failure.details.len() <= limits.metadata_bytes_max;
    let trailers: usize = failure
        .trailers
        .iter()
        .map(|t| t.key.len() + t.value.len())
        .sum();
    let trailers = match trailers {
        0 => Bytes::new(),
        size if size > limits.metadata_bytes_max => Bytes::new(),
        _ => Envelope {
            metadata: failure.trailers,
        }
        .encode_to_vec()
        .into(),
    };
    Failure {
        reason: None,
        code,
        message: Arc::from(shortened(&failure.message)),
        // A copy: a slice would keep the whole frame in memory for as long as the failure is kept.
        details: if fits {
            Bytes::copy_from_slice(&failure.details)
        } else {
            Bytes::new()
        },
        trailers,
    }
}

fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

/// The failure of an attempt whose response is over the limit. It is never retried: it would be as large again.
pub(super) fn oversize(size: usize, limits: &Limits) -> Failure {
    made(too_large("response", size, limits.payload_bytes_max))
}

/// The failure of a task of which a payload is lost. It is never retried.
pub(super) fn lost(task: TaskId, payload: &'static str) -> Failure {
    made(status::payload_lost(task, payload))
}

/// A failure of our own that the state machine knows nothing of, kept like a handler's.
fn made(refused: Refused) -> Failure {
    let status = refused.into_proto();
    Failure {
        reason: None,
        code: status.code as u32,
        message: Arc::from(status.message.as_str()),
        details: status.encode_to_vec().into(),
        trailers: Bytes::new(),
    }
}

/// A task's failure for whoever waits for it.
pub(super) fn outgoing(
    index: u32,
    task: TaskId,
    state: TaskState,
    failure: Failure,
) -> pb::Failure {
    let details = details(task, &failure);
    let mut out = pb::Failure {
        index,
        code: failure.code,
        message: failure.message.to_string(),
        details,
        trailers: options::metadata(&failure.trailers),
        ..pb::Failure::default()
    };
    out.set_state(states::to_wire(state));
    out
}

/// The handler's own details byte for byte, or ErrorInfo for a failure that the state machine made.
fn details(task: TaskId, failure: &Failure) -> Bytes {
    match failure.reason {
        None => failure.details.clone(),
        Some(reason) => {
            status::made_failure(reason, failure.code, &failure.message, task).details()
        }
    }
}

/// A task's failure as a status inside a task.
pub(super) fn status_of(task: TaskId, failure: &Failure) -> rpc::Status {
    let own = rpc::Status {
        code: failure.code as i32,
        message: failure.message.to_string(),
        details: vec![],
    };
    match rpc::Status::decode(details(task, failure)) {
        Ok(status) if !status.details.is_empty() => rpc::Status {
            details: status.details,
            ..own
        },
        // Details that are no google.rpc.Status go through byte for byte to whoever waits; here they cannot be shown.
        _ => own,
    }
}
