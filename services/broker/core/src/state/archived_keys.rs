//! Idempotency keys of archived tasks: 32 bytes a key, which is all that a second submission is compared with.
//!
//! Key and request are known by their hashes only. To take a new task for one that was there, 80 bits of the key's hash
//! and 64 of the request's digest must agree by chance.

use crate::ids::{Millis, TaskId};
use crate::image::ArchivedKey;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_128;

/// Parts of the table, so that growing one of them is a short pause.
const SHARDS: usize = 256;

/// Parts cleared of old keys at once.
const SWEPT_AT_ONCE: usize = 8;

const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// What is kept of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stub {
    /// Lower part of the key's hash.
    hash: u64,
    /// 16 bits more of the hash, and when the key is forgotten.
    packed: u64,
    /// Lower half of the request's digest.
    digest: u64,
    task: TaskId,
}

impl Stub {
    fn until(&self) -> Millis {
        self.packed & TIME
    }
}

/// The hash of a method's key. It is kept in snapshots, so it never changes.
fn hash_of(method: &str, key: &str) -> (u64, u64) {
    let mut text = Vec::with_capacity(method.len() + key.len() + 1);
    text.extend_from_slice(method.as_bytes());
    text.push(0);
    text.extend_from_slice(key.as_bytes());
    let hash = xxh3_128(&text);
    (hash as u64, (hash >> 64) as u64 & !TIME)
}

/// Keys of archived tasks.
#[derive(Debug)]
pub(crate) struct ArchivedKeys {
    shards: Vec<HashTable<Stub>>,
    len: usize,
    /// Parts that are still to be cleared of old keys.
    unswept: usize,
}

impl Default for ArchivedKeys {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            len: 0,
            unswept: 0,
        }
    }
}

/// The part of a hash. The last parts get half as many keys as the first ones, evenly in between on a scale of powers
/// of two: parts of one size would all grow at the same moment.
fn shard(hash: u64) -> usize {
    // The table itself takes its places from the lower bits and its tags from the upper ones.
    let even = (hash >> 36) & 0xffff;
    // About 2^x - 1 for x from 0 to 1, in parts of 65,536.
    let uneven = (even * (43_025 + ((22_510 * even) >> 16))) >> 16;
    ((uneven * SHARDS as u64) >> 16) as usize
}

impl ArchivedKeys {
    /// Remembers the key of a task until a time.
    pub(crate) fn insert(&mut self, text: (&str, &str), task: TaskId, digest: u128, until: Millis) {
        let (hash, tag) = hash_of(text.0, text.1);
        let packed = tag | until.min(TIME);
        let digest = digest as u64;
        self.put(Stub {
            hash,
            packed,
            digest,
            task,
        });
    }

    /// The newest task that the key stands for now, and half of its digest.
    pub(crate) fn find(&self, method: &str, key: &str, now: Millis) -> Option<(TaskId, u64)> {
        if self.len == 0 {
            return None;
        }
        let (hash, tag) = hash_of(method, key);
        let is =
            |stub: &Stub| stub.hash == hash && stub.packed & !TIME == tag && now < stub.until();
        let found = self.shards[shard(hash)].find(hash, is)?;
        Some((found.task, found.digest))
    }

    fn put(&mut self, stub: Stub) {
        let same =
            |other: &Stub| other.hash == stub.hash && (other.packed ^ stub.packed) & !TIME == 0;
        let shard = &mut self.shards[shard(stub.hash)];
        match shard.find_mut(stub.hash, same) {
            Some(known) if known.task > stub.task => {}
            Some(known) => *known = stub,
            None => {
                shard.insert_unique(stub.hash, stub, |stub| stub.hash);
                self.len += 1;
            }
        }
    }

    /// Clears keys whose time is over, little by little.
    pub(crate) fn sweep(&mut self) {
        self.unswept = SHARDS;
    }

    pub(crate) fn is_sweeping(&self) -> bool {
        self.unswept > 0
    }

    /// Does a part of the clearing.
    pub(crate) fn sweep_some(&mut self, now: Millis) {
        for _ in 0..SWEPT_AT_ONCE.min(self.unswept) {
            self.unswept -= 1;
            let shard = &mut self.shards[self.unswept];
            let before = shard.len();
            shard.retain(|stub| now < stub.until());
            self.len -= before - shard.len();
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit(|stub| stub.hash);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// For a snapshot.
    pub(crate) fn image(&self, now: Millis) -> impl Iterator<Item = ArchivedKey> + '_ {
        let stubs = self.shards.iter().flat_map(HashTable::iter);
        let known = stubs.filter(move |stub| now < stub.until());
        known.map(|stub| ArchivedKey {
            hash: stub.hash,
            tag: (stub.packed >> TIME_BITS) as u16,
            digest: stub.digest,
            task: stub.task,
            until: stub.until(),
        })
    }

    /// From a snapshot.
    pub(crate) fn load(&mut self, key: &ArchivedKey) {
        self.put(Stub {
            hash: key.hash,
            packed: u64::from(key.tag) << TIME_BITS | key.until.min(TIME),
            digest: key.digest,
            task: key.task,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_until_its_time_is_over() {
        let mut keys = ArchivedKeys::default();
        assert_eq!(keys.find("/m", "k", 0), None);
        keys.insert(("/m", "k"), TaskId(3), 9, 100);
        assert_eq!(keys.find("/m", "k", 99), Some((TaskId(3), 9)));
        assert_eq!(keys.find("/m", "k", 100), None);
        assert_eq!(keys.find("/m", "other", 99), None);
        assert_eq!(keys.find("/n", "k", 99), None);
    }

    #[test]
    fn the_newer_task_has_the_key_in_whatever_order_they_come() {
        let (mut one, mut other) = (ArchivedKeys::default(), ArchivedKeys::default());
        one.insert(("/m", "k"), TaskId(3), 9, 100);
        one.insert(("/m", "k"), TaskId(7), 8, 200);
        other.insert(("/m", "k"), TaskId(7), 8, 200);
        other.insert(("/m", "k"), TaskId(3), 9, 100);
        for keys in [one, other] {
            assert_eq!(keys.find("/m", "k", 0), Some((TaskId(7), 8)));
            assert_eq!(keys.len(), 1);
        }
    }

    #[test]
    fn old_keys_are_cleared_and_a_snapshot_has_the_others() {
        let mut keys = ArchivedKeys::default();
        for n in 0..5_000 {
            let until = if n % 2 == 0 { 100 } else { 200 };
            keys.insert(("/m", &format!("k{n}")), TaskId(n), 1, until);
        }
        assert_eq!(keys.image(150).count(), 2_500);
        keys.sweep();
        while keys.is_sweeping() {
            keys.sweep_some(150);
        }
        assert_eq!(keys.len(), 2_500);
        let mut loaded = ArchivedKeys::default();
        keys.image(150).for_each(|key| loaded.load(&key));
        assert_eq!(loaded.find("/m", "k1", 199), Some((TaskId(1), 1)));
        assert_eq!(loaded.find("/m", "k1", 200), None);
    }

    #[test]
    fn a_hash_in_a_snapshot_means_the_same_for_ever() {
        let known = (0xf7ec_b891_99ba_d94a, 0x8f9c_0000_0000_0000);
        assert_eq!(hash_of("/a.v1.B/C", "order-7"), known);
    }

    #[test]
    fn parts_differ_in_size_so_that_they_do_not_grow_together() {
        let mut counts = [0_u32; SHARDS];
        (0..1_u64 << 16).for_each(|top| counts[shard(top << 36)] += 1);
        let (first, last) = (counts[0], counts[SHARDS - 1]);
        assert!(counts.iter().all(|count| (150..=420).contains(count)));
        assert!((1.7..2.3).contains(&(f64::from(first) / f64::from(last))));
        assert_eq!(shard(u64::MAX), SHARDS - 1);
    }

    #[test]
    fn a_stub_is_32_bytes() {
        assert_eq!(size_of::<Stub>(), 32);
    }
}
