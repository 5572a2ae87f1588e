//! An operator's words about weights of limit keys in a seed: how many turns each has where they take turns. Most seeds
//! know none.

use super::policies::PLAIN;
use super::story::Call;
use super::{Action, World};
use crate::dice::Dice;
use crate::history::{Event, Name};
use crate::points::Point;
use plait::pb::control::v1 as control;
use plait_broker::weights::compiled;
use plait_broker_core::command::Command;
use prost::Message;
use std::collections::BTreeMap;

const WEIGHTS: [u32; 6] = [1, 2, 3, 7, 40, 1_000];

/// Keys that may have weights; there may be fewer, and one is of tasks that never come.
const KEYS: u64 = 4;

/// What a seed's operator does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weighing {
    /// Mean time between two words, µs.
    every: Option<u64>,
}

impl Weighing {
    /// That of a seed, drawn apart from all else, so that seeds without it are what they were before.
    pub(crate) fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, 25);
        let every = dice.range(300, 2_000) * 1_000;
        Self {
            every: dice.permille(150).then_some(every),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.every.is_some()
    }
}

impl World {
    pub(super) fn begin_weighing(&mut self) {
        if let Some(every) = self.plan.weighing.every {
            let delay = self.dice.span(every);
            self.after(delay, Action::Weigh);
        }
    }

    /// The operator gives a key a weight, takes it away, or takes all away.
    pub(super) fn weigh(&mut self) {
        if self.healing.is_some() {
            return;
        }
        self.begin_weighing();
        let key = format!("l{}", 1 + self.dice.below(KEYS));
        match self.dice.below(10) {
            0 => self.weights.clear(),
            1..3 => {
                self.weights.remove(&key);
            }
            _ => {
                let weight = WEIGHTS[self.dice.below(6) as usize];
                self.weights.insert(key, weight);
            }
        }
        let weights = self.weights.iter().map(|(key, weight)| control::KeyWeight {
            key: key.clone(),
            weight: *weight,
        });
        let request = control::SetWeightsRequest {
            method: PLAIN.into(),
            weights: weights.collect(),
        };
        let set = Command::SetWeights {
            tag: self.tag(Call::Other),
            method: PLAIN.into(),
            weights: compiled(&request),
            record: request.encode_to_vec().into(),
        };
        let delay = self.dice.span(5_000);
        self.after(delay, Action::Call(set));
    }

    /// The broker is about to be told weights, encoded so.
    pub(super) fn weights_said(&mut self, method: &Name, record: &[u8]) {
        let weights = told(record);
        self.hit(if weights.is_empty() {
            Point::WeightsCleared
        } else {
            Point::WeightsSet
        });
        self.tell(Event::WeightsInvoke {
            method: method.clone(),
        });
    }
}

/// Weights as a history tells them.
pub(super) fn told(record: &[u8]) -> BTreeMap<Name, u32> {
    let request = control::SetWeightsRequest::decode(record).unwrap_or_default();
    let weights = request.weights.into_iter();
    weights.map(|each| (each.key.into(), each.weight)).collect()
}
