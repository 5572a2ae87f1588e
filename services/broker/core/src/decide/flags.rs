//! Feature flags: which there are, who is told of them, and by which key a task reads them. What a flag means is the
//! SDKs' business; here a flag is bytes under a name.

use crate::command::FLAGS_PREFIX;
use crate::effect::Effect;
use crate::partition::{Partition, Step};
use bytes::Bytes;
use std::sync::Arc;

/// Flows above a task that are asked for a key: bounds the step. Whoever is deeper has the key of the last one.
const DEPTH_MAX: usize = 1000;

impl Partition {
    /// All feature flags.
    pub(super) fn flags(&self) -> Vec<(Arc<str>, Bytes)> {
        let entries = self.state.kv.under(FLAGS_PREFIX);
        let flag = |(key, (value, _)): (&Arc<str>, &(Bytes, u64))| {
            Some((Arc::from(key.strip_prefix(FLAGS_PREFIX)?), value.clone()))
        };
        entries.filter_map(flag).collect()
    }

    /// A key was written or removed: if it is a flag's, every worker is told before it is handed anything more.
    pub(super) fn tell_flag(&self, key: &str, value: Option<&Bytes>, step: &mut Step) {
        let Some(name) = key.strip_prefix(FLAGS_PREFIX) else {
            return;
        };
        let name: Arc<str> = Arc::from(name);
        let conns = self.live.workers.by_conn.keys();
        step.effects.extend(conns.map(|conn| Effect::FlagChanged {
            conn: *conn,
            name: Arc::clone(&name),
            value: value.cloned(),
        }));
    }

    /// A child without keys of its own reads flags by the key of its flow, so that both see the same: the ordering key,
    /// else the idempotency key, else the number, of the nearest one above that has a key, or else of the topmost.
    pub(super) fn inherited_flag_key(&self, slot: u32) -> Option<Arc<str>> {
        let tasks = &self.state.tasks;
        let own = |slot: u32| {
            let task = &tasks[slot];
            task.ordering_key().or_else(|| task.idempotency_key())
        };
        let mut parent = tasks[slot].birth()?.parent;
        if own(slot).is_some() || self.state.kv.under(FLAGS_PREFIX).next().is_none() {
            return None;
        }
        for _ in 0..DEPTH_MAX {
            let Some(slot) = tasks.find(parent) else {
                break;
            };
            if let Some(key) = own(slot) {
                return Some(Arc::clone(key));
            }
            match tasks[slot].birth() {
                Some(birth) => parent = birth.parent,
                None => break,
            }
        }
        Some(parent.to_string().into())
    }
}
