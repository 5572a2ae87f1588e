//! The first message of a worker.

use std::sync::Arc;

use plait::pb::control::v1::WorkerAttached;
use plait::pb::v1::{self as pb, attach_request::Message};
use plait_broker_core::command::WorkerAttach;
use plait_broker_core::ids::{ConnId, TaskId, Token};

use super::validate;
use crate::limits::Limits;
use crate::status::{Refused, invalid, too_large};

/// Methods of one worker.
const METHODS_MAX: usize = 4096;

/// Slots of one worker; more would be a mistake.
const SLOTS_MAX: u32 = 1 << 20;

/// A hello that can be used.
#[derive(Debug)]
pub(super) struct Hello(pb::WorkerHello);

/// Checks the first message.
pub(super) fn checked(first: Option<pb::AttachRequest>, limits: &Limits) -> Result<Hello, Refused> {
    let Some(Message::Hello(hello)) = first.and_then(|request| request.message) else {
        return Err(invalid("hello", "a worker says hello first"));
    };
    validate::worker_id(&hello.worker)?;
    let texts = [
        ("name", &hello.name),
        ("version", &hello.version),
        ("client", &hello.client),
    ];
    for (field, text) in texts {
        if text.len() > limits.key_bytes_max {
            return Err(too_large(
                format!("hello.{field}"),
                text.len(),
                limits.key_bytes_max,
            ));
        }
    }
    if hello.methods.is_empty() || hello.methods.len() > METHODS_MAX {
        return Err(invalid(
            "hello.methods",
            format!("a worker serves 1 to {METHODS_MAX} methods"),
        ));
    }
    for (index, method) in hello.methods.iter().enumerate() {
        validate::route(&format!("hello.methods[{index}]"), method)?;
    }
    if hello.contracts.len() > METHODS_MAX {
        return Err(invalid(
            "hello.contracts",
            format!("at most {METHODS_MAX} contracts"),
        ));
    }
    for (index, contract) in hello.contracts.iter().enumerate() {
        validate::digest(&format!("hello.contracts[{index}]"), contract)?;
    }
    validate::endpoint("hello.endpoint", &hello.endpoint)?;
    if !(1..=SLOTS_MAX).contains(&hello.slots) {
        return Err(invalid(
            "hello.slots",
            format!("a worker has 1 to {SLOTS_MAX} slots"),
        ));
    }
    Ok(Hello(hello))
}

impl Hello {
    /// What the state machine and what the scheduler is told.
    pub(super) fn into_parts(self, conn: ConnId) -> (WorkerAttach, WorkerAttached) {
        let Self(hello) = self;
        let attach = WorkerAttach {
            conn,
            worker: Arc::from(hello.worker.as_str()),
            version: Arc::from(hello.version.as_str()),
            methods: hello
                .methods
                .iter()
                .map(|method| Arc::from(method.as_str()))
                .collect(),
            slots: hello.slots,
            held: hello
                .held
                .iter()
                .map(|held| (TaskId(held.task), Token(held.token)))
                .collect(),
        };
        let name = if hello.name.is_empty() {
            hello.worker.clone()
        } else {
            hello.name
        };
        let attached = WorkerAttached {
            worker: hello.worker,
            name,
            version: hello.version,
            client: hello.client,
            methods: hello.methods,
            slots: hello.slots,
            contracts: hello.contracts,
            endpoint: hello.endpoint,
        };
        (attach, attached)
    }
}
