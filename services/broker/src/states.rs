//! Task states of the state machine and of the wire.

use plait::pb::v1 as pb;
use plait_broker_core::effect::{HeldBy, TaskState};

/// The wire's name of a state.
pub fn to_wire(state: TaskState) -> pb::TaskState {
    match state {
        TaskState::Scheduled => pb::TaskState::Scheduled,
        TaskState::Ready => pb::TaskState::Ready,
        TaskState::Running => pb::TaskState::Running,
        TaskState::Backoff => pb::TaskState::Backoff,
        TaskState::Suspended => pb::TaskState::Suspended,
        TaskState::Parked => pb::TaskState::Parked,
        TaskState::Succeeded => pb::TaskState::Succeeded,
        TaskState::Failed => pb::TaskState::Failed,
        TaskState::Cancelled => pb::TaskState::Cancelled,
        TaskState::Expired => pb::TaskState::Expired,
    }
}

/// The wire's name of a limit.
pub fn held_by(why: HeldBy) -> pb::HeldBy {
    match why {
        HeldBy::Concurrency => pb::HeldBy::Concurrency,
        HeldBy::Rate => pb::HeldBy::Rate,
        HeldBy::KeyConcurrency => pb::HeldBy::KeyConcurrency,
        HeldBy::KeyRate => pb::HeldBy::KeyRate,
    }
}

/// The state of a number on the wire; `None` for UNSPECIFIED and unknown ones.
pub fn from_wire(state: i32) -> Option<TaskState> {
    Some(match pb::TaskState::try_from(state).ok()? {
        pb::TaskState::Unspecified => return None,
        pb::TaskState::Scheduled => TaskState::Scheduled,
        pb::TaskState::Ready => TaskState::Ready,
        pb::TaskState::Running => TaskState::Running,
        pb::TaskState::Backoff => TaskState::Backoff,
        pb::TaskState::Suspended => TaskState::Suspended,
        pb::TaskState::Parked => TaskState::Parked,
        pb::TaskState::Succeeded => TaskState::Succeeded,
        pb::TaskState::Failed => TaskState::Failed,
        pb::TaskState::Cancelled => TaskState::Cancelled,
        pb::TaskState::Expired => TaskState::Expired,
    })
}
