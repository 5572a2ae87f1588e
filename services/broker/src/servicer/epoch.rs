//! The epoch that a scheduler's commands carry, so that one that no longer leads changes nothing.

use plait_broker_core::command::LEADER_KEY;
use tonic::Request;

use super::Context;
use crate::partition::CallError;
use crate::status::{Refused, invalid};

/// Where it is; a number in decimal digits.
const METADATA_KEY: &str = "plait-scheduler-epoch";

/// The epoch of a command; None: of somebody who does not lead by epochs, and is not checked.
pub(super) fn of<T>(request: &Request<T>) -> Result<Option<u64>, Refused> {
    let Some(value) = request.metadata().get(METADATA_KEY) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| invalid(METADATA_KEY, "it is no number"))
}

impl Context {
    /// Refuses what comes under another epoch than the present one. For what changes nothing in the state machine,
    /// which checks its own commands.
    pub(super) async fn leading(&self, epoch: Option<u64>) -> Result<(), CallError> {
        let Some(epoch) = epoch else {
            return Ok(());
        };
        let version = |found: Option<(_, u64)>| found.map_or(0, |(_, version)| version);
        let current = self
            .partition
            .query(move |p, _| version(p.kv_get(LEADER_KEY)));
        match current.await? {
            current if current == epoch => Ok(()),
            current => Err(CallError::Fenced(current)),
        }
    }
}
