//! Weights of the keys of methods, which operators set while everything runs.

use crate::effect::{Error, Reply};
use crate::ids::Millis;
use crate::partition::{Partition, Step};
use crate::record::Record;
use crate::weight::{WEIGHTS_PREFIX, Weights};
use bytes::Bytes;
use std::sync::Arc;

impl Partition {
    /// Puts the weights of a method's keys in force, and `record` where a broker that comes back finds them.
    pub(super) fn set_weights(
        &mut self,
        (method, weights): (Arc<str>, Weights),
        record: Bytes,
        now: Millis,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        if let Some(problem) = weights.fault() {
            return Err(Error::Invalid {
                field: "weights",
                problem: problem.into(),
            });
        }
        let key: Arc<str> = format!("{WEIGHTS_PREFIX}{method}").into();
        let kept = self.state.kv.entries.get(&key);
        let same = kept.is_some_and(|(value, _)| *value == record);
        if weights.is_empty() && kept.is_some() {
            self.commit(Record::KvDeleted { key }, step);
        } else if !weights.is_empty() && !same {
            let version = self.state.kv.version.saturating_add(1);
            let put = Record::KvPut {
                key,
                value: record,
                version,
            };
            self.commit(put, step);
        }
        self.enforce_weights((method, weights), now);
        Ok(Reply::Done)
    }

    /// Goes on with weights that were set before.
    pub(crate) fn enforce_weights(&mut self, (method, weights): (Arc<str>, Weights), now: Millis) {
        let state = &mut self.state;
        let given = (&method, weights);
        state.methods.set_weights(&mut state.tasks, given, now);
    }
}
