//! The small key-value space. Versions come from one counter, so none is ever given twice.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Keys with values and versions.
#[derive(Debug, Default)]
pub(crate) struct Kv {
    pub(crate) entries: BTreeMap<Arc<str>, (Bytes, u64)>,
    /// The latest version given.
    pub(crate) version: u64,
}

impl Kv {
    pub(crate) fn put(&mut self, key: &Arc<str>, value: &Bytes, version: u64) {
        self.version = self.version.max(version);
        // A value may stay for months: it must not pin the buffer it arrived in.
        self.entries
            .insert(Arc::clone(key), (Bytes::copy_from_slice(value), version));
    }

    /// The entries whose keys begin with this.
    pub(crate) fn under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a (Bytes, u64))> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let entries = self.entries.range::<str, _>(from);
        entries.take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The version of a key; 0: there is none.
    pub(crate) fn version_of(&self, key: &str) -> u64 {
        self.entries.get(key).map_or(0, |(_, version)| *version)
    }
}
