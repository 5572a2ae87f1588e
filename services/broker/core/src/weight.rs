//! Weights of limit keys: how many turns a key has where the keys of its method take turns.

use crate::mutant::{self, Mutant};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Under this, followed by a method's path, are the weights of its keys, as the shell encodes them, so that a broker
/// that comes back goes on with them. Written by `Command::SetWeights` alone.
pub const WEIGHTS_PREFIX: &str = "scheduler/weights";

/// The highest weight; the lowest is 1, which is also that of a key that has none.
pub const WEIGHT_MAX: u32 = 1_000;

/// Keys of one method that may have weights.
pub const WEIGHTS_MAX: usize = 1_000;

/// The longest key that may have one, bytes.
pub const WEIGHT_KEY_BYTES_MAX: usize = 256;

/// Weights of the keys of one method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights(BTreeMap<Arc<str>, u32>);

impl Weights {
    /// Each key has the weight that is said last.
    pub fn new(weights: impl IntoIterator<Item = (Arc<str>, u32)>) -> Self {
        Self(weights.into_iter().collect())
    }

    /// Whether no key has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What cannot hold.
    pub fn fault(&self) -> Option<&'static str> {
        let key = |key: &Arc<str>| (1..=WEIGHT_KEY_BYTES_MAX).contains(&key.len());
        if self.0.len() > WEIGHTS_MAX {
            Some("at most 1,000 keys of a method have weights")
        } else if !self.0.keys().all(key) {
            Some("a key has 1 to 256 bytes")
        } else if !self.0.values().all(|own| (1..=WEIGHT_MAX).contains(own)) {
            Some("a weight is within 1 to 1,000")
        } else {
            None
        }
    }

    /// The weight of a key; None: that of tasks without one.
    pub(crate) fn of(&self, key: Option<&Arc<str>>) -> u32 {
        let own = key.and_then(|key| self.0.get(key));
        let own = own.filter(|_| !mutant::is(Mutant::KeyWeightIgnored));
        own.map_or(1, |weight| (*weight).clamp(1, WEIGHT_MAX))
    }

    /// Keys that have weights.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }
}
