//! Limits of a seed: most seeds have none, in the others they bind now and then. And latency classes and weights, which
//! decide who begins first and on how many slots, and must cost no task anything else.

use crate::dice::Dice;
use crate::history::{Limits, Rank};
use plait::pb::control::v1 as control;
use plait::pb::v1::LatencyClass;
use plait_broker_core::policy::MethodPolicy;

/// Longer than any world lasts, ms.
const PATIENT: u64 = 600_000;

/// Limits of the methods of one seed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limiting {
    /// Of Plain and of Poison.
    plain: Limits,
    poison: Limits,
    /// Different limit keys; 0: tasks have none.
    keys: u64,
    /// Whether keys take turns.
    fair: bool,
    /// Whether methods have latency classes, and queues weights.
    ranked: bool,
    /// Whether all methods are of one latency class.
    one_class: bool,
    /// Whether tasks have so much time that none ends by its deadline because it was never started.
    patient: bool,
}

impl Limiting {
    /// Those of a seed, drawn apart from all else, so that seeds without limits are what they were before.
    pub(crate) fn draw(seed: u64) -> Self {
        let ranking = &mut Dice::new(seed, 22);
        let ranked = ranking.permille(300);
        let sharing = &mut Dice::new(seed, 24);
        let one_class = sharing.permille(500);
        let only_fair = ranked && sharing.permille(300);
        let dice = &mut Dice::new(seed, 21);
        if !dice.permille(350) {
            return Self {
                ranked,
                one_class,
                fair: only_fair,
                keys: if only_fair { 3 } else { 0 },
                ..Self::default()
            };
        }
        Self {
            plain: Limits {
                starts: one_of(dice, &[0, 3, 20, 70]),
                period_ms: 1_000,
                burst: one_of(dice, &[1, 4, 15]),
                rate_by_key: dice.permille(500),
                running: one_of(dice, &[0, 1, 3, 6]),
                running_per_key: one_of(dice, &[0, 1, 2]),
            },
            poison: Limits {
                starts: one_of(dice, &[1, 10]),
                period_ms: one_of(dice, &[300, 700]),
                burst: one_of(dice, &[1, 3]),
                ..Limits::default()
            },
            keys: one_of(dice, &[1, 2, 5]),
            fair: ranked && ranking.permille(500),
            ranked,
            one_class,
            patient: false,
        }
    }

    /// The same; with `patient`, without limits and with so much time for tasks that one which nobody ever starts
    /// shows.
    pub(crate) fn patient(self, patient: bool) -> Self {
        let (plain, poison) = match patient {
            true => Default::default(),
            false => (self.plain, self.poison),
        };
        Self {
            patient,
            plain,
            poison,
            ..self
        }
    }

    /// The same; with `weighed`, keys that take turns, since weights are of turns.
    pub(crate) fn weighed(self, weighed: bool) -> Self {
        if !weighed {
            return self;
        }
        Self {
            fair: true,
            keys: self.keys.max(3),
            ..self
        }
    }

    /// The time for a task, ms, if it is usually so much.
    pub(crate) fn deadline_ms(&self, usually: u64) -> u64 {
        if self.patient { PATIENT } else { usually }
    }

    /// The limit key of a new task.
    pub(crate) fn key(&self, dice: &mut Dice) -> Option<String> {
        // One in `keys + 1` has none.
        let number = (self.keys > 0).then(|| dice.below(self.keys + 1))?;
        (number > 0).then(|| format!("l{number}"))
    }

    pub(crate) fn plain(&self, policy: control::MethodPolicy) -> control::MethodPolicy {
        control::MethodPolicy {
            fair_by_key: self.fair,
            ..with(policy, &self.plain)
        }
    }

    pub(crate) fn poison(&self, policy: control::MethodPolicy) -> control::MethodPolicy {
        with(policy, &self.poison)
    }

    /// A policy with its latency class, and a weight for its queue.
    pub(crate) fn ranked(
        &self,
        policy: control::MethodPolicy,
        class: LatencyClass,
        weight: u32,
    ) -> control::MethodPolicy {
        if !self.ranked {
            return policy;
        }
        control::MethodPolicy {
            latency_class: if self.one_class {
                LatencyClass::Standard
            } else {
                class
            }
            .into(),
            queue_weight: weight,
            ..policy
        }
    }
}

fn with(policy: control::MethodPolicy, limits: &Limits) -> control::MethodPolicy {
    control::MethodPolicy {
        rate_limit: limits.starts,
        rate_period_ms: limits.period_ms,
        rate_burst: limits.burst,
        rate_by_key: limits.rate_by_key,
        concurrency_limit: limits.running as u32,
        concurrency_per_key: limits.running_per_key as u32,
        ..policy
    }
}

/// The limits of a policy as a history tells them.
pub(super) fn told(limits: &plait_broker_core::policy::Limits) -> Option<Limits> {
    let rate = limits.rate;
    (!limits.is_none()).then(|| Limits {
        starts: rate.map_or(0, |rate| rate.starts),
        period_ms: rate.map_or(0, |rate| rate.period_ms),
        burst: rate.map_or(0, |rate| rate.burst),
        rate_by_key: limits.rate_by_key,
        running: limits.running_max.into(),
        running_per_key: limits.running_per_key_max.into(),
    })
}

/// How a policy's tasks stand to others, as a history tells it.
pub(super) fn rank(policy: &MethodPolicy) -> Rank {
    let limits = &policy.limits;
    let by_key = limits.running_per_key_max > 0 || limits.rate_by_key;
    Rank {
        latency: policy.latency as u8,
        priority: policy.priority,
        weight: policy.queue_weight.max(1).into(),
        fair: limits.fair_by_key && !by_key,
    }
}

fn one_of(dice: &mut Dice, values: &[u64]) -> u64 {
    values[dice.below(values.len() as u64) as usize]
}
