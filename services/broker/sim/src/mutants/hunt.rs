//! The list, and the hunt for one.

use crate::campaign::{self, Layer, Seeds};
use plait_broker_core::mutant as core;
use plait_broker_log::mutant as log;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The head of the table of [`Row`]s.
pub const HEAD: &str = "mutant                   seeds tried   found in   found by seed  by";

/// The one bug of the shell, whose order of steps the simulation has of its own.
static ACK_BEFORE_SYNC: AtomicBool = AtomicBool::new(false);

/// Whether the shell tells before it is durable.
pub(crate) fn ack_before_sync() -> bool {
    ACK_BEFORE_SYNC.load(Ordering::Relaxed)
}

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// In the state machine.
    Core(core::Mutant),
    /// In the log.
    Log(log::Mutant),
    /// Effects before their records are durable.
    AckBeforeSync,
}

/// Every one.
#[must_use]
pub fn all() -> Vec<Mutant> {
    use core::Mutant as C;
    use log::Mutant as L;
    let core = [
        C::SkipFence,
        C::DedupWindow,
        C::LostTimer,
        C::DoubleGrant,
        C::TokenWithoutEpoch,
        C::CancelIgnored,
        C::AttemptsOffByOne,
        C::DeadlineWidened,
        C::OrderAtRecovery,
        C::PausedDispatches,
        C::LineNotHeld,
        C::FrameTwice,
        C::ForgetEarly,
        C::NothingNeeded,
        C::OnceTwice,
        C::ExpiredStarts,
        C::SessionsNotInSnapshot,
        C::ChildForgotten,
        C::PausesNotInSnapshot,
        C::SnapshotOfTwoTimes,
        C::RunsNotCounted,
        C::RatesNotInSnapshot,
        C::SplitIgnored,
        C::SplitNotInSnapshot,
        C::SplitHurried,
        C::SplitStrands,
        C::RolledBackServes,
        C::WeightIgnored,
        C::SharesNotCharged,
        C::SharesSavedUp,
        C::ReserveIgnored,
        C::WorkerGateIgnored,
        C::GateIgnored,
        C::GateStays,
        C::TurnsSkipped,
        C::KeyWeightIgnored,
        C::WeightsNotInSnapshot,
        C::TurnsSavedUp,
        C::TurnsForgotten,
    ];
    let log = [L::NoSync, L::SnapshotNotSynced, L::NoDirSync];
    let core = core.into_iter().map(Mutant::Core);
    let log = log.into_iter().map(Mutant::Log);
    std::iter::once(Mutant::AckBeforeSync)
        .chain(log)
        .chain(core)
        .collect()
}

impl Mutant {
    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Core(mutant) => format!("{mutant:?}"),
            Self::Log(mutant) => format!("{mutant:?}"),
            Self::AckBeforeSync => "AckBeforeSync".to_owned(),
        }
    }

    /// Whether a layer can know it: the order of steps of the shell is simulated in one, flows are children of that
    /// one, too, and only there the broker tells what it knows of workers.
    #[must_use]
    pub fn is_in(self, layer: Layer) -> bool {
        use core::Mutant as C;
        let core_only = [
            Self::AckBeforeSync,
            Self::Core(C::DeadlineWidened),
            Self::Core(C::ChildForgotten),
            Self::Core(C::SplitIgnored),
            Self::Core(C::SplitNotInSnapshot),
            Self::Core(C::SplitHurried),
            Self::Core(C::SplitStrands),
            Self::Core(C::RolledBackServes),
            Self::Core(C::WeightIgnored),
            Self::Core(C::SharesNotCharged),
            Self::Core(C::SharesSavedUp),
            Self::Core(C::ReserveIgnored),
            Self::Core(C::WorkerGateIgnored),
            Self::Core(C::GateIgnored),
            Self::Core(C::GateStays),
            Self::Core(C::TurnsSkipped),
            Self::Core(C::KeyWeightIgnored),
            Self::Core(C::WeightsNotInSnapshot),
            Self::Core(C::TurnsSavedUp),
            Self::Core(C::TurnsForgotten),
        ];
        layer == Layer::Core || !core_only.contains(&self)
    }

    fn turn_on(self) {
        off();
        match self {
            Self::Core(mutant) => core::set(Some(mutant)),
            Self::Log(mutant) => log::set(Some(mutant)),
            Self::AckBeforeSync => ACK_BEFORE_SYNC.store(true, Ordering::Relaxed),
        }
    }
}

fn off() {
    core::set(None);
    log::set(None);
    ACK_BEFORE_SYNC.store(false, Ordering::Relaxed);
}

/// What became of a mutant.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Seeds run with it.
    pub tried: u64,
    /// Seeds that found it.
    pub hits: u64,
    /// The first of them, and by which invariant.
    pub found: Option<(u64, String)>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some((seed, what)) => {
                let Self {
                    name, tried, hits, ..
                } = self;
                write!(f, "{name:<24} {tried:>11} {hits:>10} {seed:>15}  {what}")
            }
            None => write!(f, "{:<24} {:>11} {:>26}", self.name, self.tried, "SURVIVED"),
        }
    }
}

/// Runs seeds with a mutant until one finds it. One hunt at a time in a process.
#[must_use]
pub fn hunt(mutant: Mutant, seeds: &Seeds) -> Row {
    mutant.turn_on();
    let totals = campaign::run(seeds, None, &mut |_| {});
    off();
    Row {
        name: mutant.name(),
        tried: totals.seeds,
        hits: totals.failed.len() as u64,
        found: totals
            .failed
            .into_values()
            .next()
            .map(|failed| (failed.seed, failed.invariant)),
    }
}
