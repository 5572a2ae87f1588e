//! Commands that become durable together.

use plait_broker_core::Step;
use plait_broker_core::effect::Effect;
use plait_broker_core::ids::{ArchiveId, Millis};

use crate::outbox::{Deferred, Release};

/// Room held by a group beyond which it takes no more commands until it is on its way.
const COST_MAX: usize = 8 * 1024 * 1024;

/// Effects of a group beyond which it takes no more commands: dispatches and results cost memory too.
const EFFECTS_MAX: usize = 8192;

/// The group that forms. All its commands are applied at one time, which is that of its frame, so that replay sees
/// what life saw.
#[derive(Default)]
pub(super) struct Group {
    opened: Option<Millis>,
    pub(super) step: Step,
    answers: Vec<Deferred>,
    cost: usize,
}

impl Group {
    /// The time of the group; `now` if it begins.
    pub(super) fn time(&mut self, now: impl FnOnce() -> Millis) -> Millis {
        *self.opened.get_or_insert_with(now)
    }

    /// Whether anything was applied.
    pub(super) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// Whether it takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.cost >= COST_MAX || self.step.effects.len() >= EFFECTS_MAX
    }

    pub(super) fn add_cost(&mut self, cost: usize) {
        self.cost += cost;
    }

    pub(super) fn add_answer(&mut self, answer: Deferred) {
        self.answers.push(answer);
    }

    /// Whether the state machine says that segments may go.
    pub(super) fn log_releasable(&self) -> bool {
        self.step
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::LogReleasable))
    }

    /// Archive files that may go once the group is durable.
    pub(super) fn archives_released(&self) -> Vec<ArchiveId> {
        let released = self.step.effects.iter().filter_map(|effect| match effect {
            Effect::ArchivesReleased { archives } => Some(archives),
            _ => None,
        });
        released.flatten().copied().collect()
    }

    /// Takes what the group led to; the next one may begin.
    pub(super) fn close(&mut self) -> (Vec<plait_broker_core::record::Record>, Release) {
        let time = self.opened.take().unwrap_or_default();
        let step = std::mem::take(&mut self.step);
        let release = Release {
            time,
            effects: step.effects,
            answers: std::mem::take(&mut self.answers),
            cost: std::mem::take(&mut self.cost),
        };
        (step.records, release)
    }
}
