//! Deliberate bugs, for the simulation to find. Without the feature `mutants`, which nothing that is shipped turns on,
//! [`is`] is a constant and the code is as if there were none.

#[cfg(feature = "mutants")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// An outcome is accepted whatever its token.
    SkipFence = 1,
    /// A key's window ends a millisecond early.
    DedupWindow = 2,
    /// A restart forgets when a wait for a retry is over.
    LostTimer = 3,
    /// A lease that its worker brought back is given to the next one, too.
    DoubleGrant = 4,
    /// Tokens begin anew at a restart.
    TokenWithoutEpoch = 5,
    /// A cancelled task that waits is left as it is.
    CancelIgnored = 6,
    /// One attempt more than the policy allows.
    AttemptsOffByOne = 7,
    /// A child may outlive its flow.
    DeadlineWidened = 8,
    /// A restart builds ordering lines in the order in which it finds the tasks.
    OrderAtRecovery = 9,
    /// A paused queue goes on.
    PausedDispatches = 10,
    /// A task that waits for a retry lets the next of its line pass.
    LineNotHeld = 11,
    /// A frame that comes again is accepted again.
    FrameTwice = 12,
    /// A finished task is kept for half its time.
    ForgetEarly = 13,
    /// Segments go with payloads that are still needed.
    NothingNeeded = 14,
    /// A task that may start once is repeated when its worker is lost.
    OnceTwice = 15,
    /// A task may start at the very instant of its deadline.
    ExpiredStarts = 16,
    /// A snapshot holds no sessions.
    SessionsNotInSnapshot = 17,
    /// A flow's child is not found by its key.
    ChildForgotten = 18,
    /// A snapshot holds no pauses.
    PausesNotInSnapshot = 19,
    /// What changes while a snapshot is taken is told as it is by then.
    SnapshotOfTwoTimes = 20,
    /// A restart does not count what runs.
    RunsNotCounted = 21,
    /// A snapshot does not tell what is used up of rates.
    RatesNotInSnapshot = 22,
    /// Tasks are not divided between versions.
    SplitIgnored = 23,
    /// A snapshot holds no splits.
    SplitNotInSnapshot = 24,
    /// The other versions' tasks do not wait for one of them.
    SplitHurried = 25,
    /// A version's tasks wait for it for ever.
    SplitStrands = 26,
    /// A version without a share gets tasks because the others are away.
    RolledBackServes = 27,
    /// Queues have no weights.
    WeightIgnored = 28,
    /// What a queue has had is not counted.
    SharesNotCharged = 29,
    /// A queue that had nothing to start has saved its share up.
    SharesSavedUp = 30,
    /// Lower latency classes may use every slot.
    ReserveIgnored = 31,
    /// A worker's gate lets any number of attempts begin.
    WorkerGateIgnored = 32,
    /// A method's gate lets any number of attempts begin.
    GateIgnored = 33,
    /// A method's gate is never over by itself.
    GateStays = 34,
    /// Limit keys take no turns.
    TurnsSkipped = 35,
    /// Limit keys have no weights.
    KeyWeightIgnored = 36,
    /// A snapshot holds no weights of limit keys.
    WeightsNotInSnapshot = 37,
    /// A limit key that had nothing to start has saved its turns up.
    TurnsSavedUp = 38,
    /// What a limit key has had is forgotten as soon as nothing of it waits.
    TurnsForgotten = 39,
}

#[cfg(feature = "mutants")]
static ON: AtomicU8 = AtomicU8::new(0);

/// Turns one bug on for the whole process, and any other off.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    ON.store(mutant.map_or(0, |mutant| mutant as u8), Ordering::Relaxed);
}

/// Whether a bug is on.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    ON.load(Ordering::Relaxed) == mutant as u8
}

/// Whether a bug is on: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
