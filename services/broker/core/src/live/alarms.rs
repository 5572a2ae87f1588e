//! Times that belong to no task: few, so a sorted set does.

use crate::ids::{Millis, SessionId};
use std::collections::BTreeSet;

/// What an alarm is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// Workers had their time to come back after the restart.
    Reattach,
    /// A held call had its time.
    Held(u64),
    /// A gate was not set again in time; of the method with this number.
    Gate(u32),
    /// The same of a worker, by its number.
    WorkerGate(u32),
    /// A session may have been idle for too long.
    Session(SessionId),
}

/// Alarms by time.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    set: BTreeSet<(Millis, Alarm)>,
}

impl Alarms {
    pub(crate) fn set(&mut self, at: Millis, alarm: Alarm) {
        self.set.insert((at, alarm));
    }

    /// The next alarm whose time has come, taken out.
    pub(crate) fn pop(&mut self, now: Millis) -> Option<Alarm> {
        let (at, _) = self.set.first()?;
        if *at > now {
            return None;
        }
        self.set.pop_first().map(|(_, alarm)| alarm)
    }

    pub(crate) fn next(&self) -> Option<Millis> {
        self.set.first().map(|(at, _)| *at)
    }
}
