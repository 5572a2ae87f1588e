//! Limits of a seed: most seeds have none, in the others they bind now and then. And latency classes and weights, which
//! decide who begins first and on how many slots, and must cost no task anything else.

use crate::dice::Dice;
use crate::history::Limits;
use plait::pb::control::v1 as control;
use plait::pb::v1::LatencyClass;

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
}

impl Limiting {
    /// Those of a seed, drawn apart from all else, so that seeds without limits are what they were before.
    pub(crate) fn draw(seed: u64) -> Self {
        let ranking = &mut Dice::new(seed, 22);
        let ranked = ranking.permille(300);
        let dice = &mut Dice::new(seed, 21);
        if !dice.permille(350) {
            return Self {
                ranked,
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
        }
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
            latency_class: class.into(),
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

fn one_of(dice: &mut Dice, values: &[u64]) -> u64 {
    values[dice.below(values.len() as u64) as usize]
}
