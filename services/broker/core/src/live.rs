//! What ends with the process: streams, attached workers, who waits and who watches.

pub(crate) mod alarms;
pub(crate) mod classes;
pub(crate) mod failures;
pub(crate) mod guard;
pub(crate) mod held;
pub(crate) mod ranks;
pub(crate) mod reserve;
pub(crate) mod shares;
pub(crate) mod splits;
pub(crate) mod streams;
pub(crate) mod watchers;
pub(crate) mod worker_gate;
pub(crate) mod workers;

use crate::effect::{Effect, StopReason};
use crate::ids::{ConnId, Millis, TaskId, Token};
use crate::partition::LostAttempts;
use alarms::Alarms;
use failures::Failures;
use held::HeldCalls;
use splits::Splits;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use streams::Streams;
use watchers::Watchers;
use workers::Workers;

/// Everything that is not durable.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) workers: Workers,
    pub(crate) streams: Streams,
    pub(crate) watchers: Watchers,
    pub(crate) alarms: Alarms,
    pub(crate) held: HeldCalls,
    pub(crate) splits: Splits,
    /// Suspended flows of which a child ended in this step.
    pub(crate) wakeups: Vec<TaskId>,
    /// Flows that ended without success and may have children to cancel, and the child to go on with.
    pub(crate) reaping: VecDeque<(TaskId, Option<TaskId>)>,
    /// Leases that wait for their worker after a restart, by its name.
    pub(crate) orphans: BTreeMap<Arc<str>, Vec<(TaskId, Token)>>,
    /// Attempts that were lost with their workers since figures were taken last.
    pub(crate) lost: Vec<LostAttempts>,
    pub(crate) failures: Failures,
    /// Attempts to stop in this step.
    stops: BTreeMap<ConnId, Vec<(TaskId, Token, StopReason)>>,
    /// When this process took the state over. A session counts as used then: its submitter could not come while
    /// nobody served, however far the wall clock stepped meanwhile.
    pub(crate) since: Millis,
    /// Leases granted by this process.
    pub(crate) tokens: u64,
    /// Rounds of the dispatcher, for taking turns.
    pub(crate) rounds: u64,
    random: u64,
}

impl Live {
    /// Takes the entropy of a command.
    pub(crate) fn seed(&mut self, entropy: u64) {
        self.random = entropy;
    }

    /// The next random number (splitmix64).
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Tells a worker to stop an attempt.
    pub(crate) fn stop(&mut self, conn: ConnId, task: TaskId, token: Token, reason: StopReason) {
        self.stops
            .entry(conn)
            .or_default()
            .push((task, token, reason));
    }

    /// The stops of this step.
    pub(crate) fn flush_stops(&mut self, effects: &mut Vec<Effect>) {
        while let Some((conn, entries)) = self.stops.pop_first() {
            effects.push(Effect::Stop { conn, entries });
        }
    }
}
