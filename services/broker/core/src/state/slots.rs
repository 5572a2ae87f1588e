//! A hash table of slots whose keys lie in the tasks themselves. Half of each hash is kept beside the slot, so that
//! growing, and passing over others, touches no task.

use hashbrown::HashTable;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The hash of a key under the seed of its table. It must only ever choose a place: another process has another seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(u32);

impl KeyHash {
    fn of(seed: u64, key: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        key.hash(&mut hasher);
        let hash = hasher.finish();
        Self((hash ^ (hash >> 32)) as u32)
    }

    /// Spread over 64 bits: the table takes the place from the lower ones and a tag from the upper ones.
    pub(crate) fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Slots by key.
#[derive(Debug, Default)]
pub(crate) struct SlotTable {
    entries: HashTable<(KeyHash, u32)>,
    seed: u64,
}

impl SlotTable {
    /// A table whose places nobody can foretell who does not know the seed: keys are chosen by whoever submits.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// The hash of a key in this table.
    pub(crate) fn hash(&self, key: impl Hash) -> KeyHash {
        KeyHash::of(self.seed, key)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The slot under a key.
    pub(crate) fn find(&self, hash: KeyHash, is: impl Fn(u32) -> bool) -> Option<u32> {
        let found = self
            .entries
            .find(hash.spread(), |(own, slot)| *own == hash && is(*slot));
        found.map(|(_, slot)| *slot)
    }

    /// Puts a slot under a key, in place of the one that was there.
    pub(crate) fn put(&mut self, hash: KeyHash, slot: u32, is: impl Fn(u32) -> bool) {
        let same = |(own, other): &(KeyHash, u32)| *own == hash && is(*other);
        match self.entries.find_mut(hash.spread(), same) {
            Some(entry) => entry.1 = slot,
            None => {
                self.entries
                    .insert_unique(hash.spread(), (hash, slot), |(own, _)| own.spread());
            }
        }
    }

    /// Takes a slot out, if its key stands for it.
    pub(crate) fn remove(&mut self, hash: KeyHash, slot: u32) {
        if let Ok(entry) = self
            .entries
            .find_entry(hash.spread(), |(_, other)| *other == slot)
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_replaced_and_removed() {
        let keys: Vec<String> = (0..5_000).map(|n| format!("key-{n}")).collect();
        let mut table = SlotTable::default();
        let is = |key: &str| {
            let key = key.to_owned();
            let keys = &keys;
            move |slot: u32| keys[slot as usize % 5_000] == key
        };
        for (slot, key) in keys.iter().enumerate() {
            table.put(table.hash(key), slot as u32, is(key));
        }
        let hash = table.hash("key-7");
        assert_eq!(table.find(hash, is("key-7")), Some(7));
        assert_eq!(table.find(table.hash("none"), is("none")), None);
        table.put(hash, 5_007, is("key-7"));
        assert_eq!(table.find(hash, is("key-7")), Some(5_007));
        table.remove(hash, 7);
        assert_eq!(
            table.find(hash, is("key-7")),
            Some(5_007),
            "another one has the key now"
        );
        table.remove(hash, 5_007);
        assert_eq!(table.find(hash, is("key-7")), None);
    }

    #[test]
    fn another_seed_puts_keys_elsewhere() {
        let places = |seed| {
            let table = SlotTable::seeded(seed);
            (0..100).map(move |n| table.hash(n).spread())
        };
        assert!(places(1).eq(places(1)));
        let same = places(1).zip(places(2)).filter(|(one, two)| one == two);
        assert_eq!(same.count(), 0);
    }
}
