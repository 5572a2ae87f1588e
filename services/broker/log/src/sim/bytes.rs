//! What a simulated disk holds of one file, and the randomness it uses.

use std::collections::BTreeMap;

pub(super) const BLOCK: usize = 512;

#[derive(Debug, Default)]
pub(super) struct SimBytes {
    pub(super) cache: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Contents of each block since it was last durable, oldest first.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    synced_length: usize,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
}

impl SimBytes {
    /// A file that was always there.
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        let synced_length = bytes.len();
        Self {
            cache: bytes.clone(),
            durable: bytes,
            synced_length,
            ..Self::default()
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if end > self.cache.len() {
            self.cache.resize(end, 0);
            self.lengths.push(end);
        }
        self.cache[at..end].copy_from_slice(bytes);
        for block in at / BLOCK..end.div_ceil(BLOCK) {
            let content = &self.cache[block * BLOCK..self.cache.len().min((block + 1) * BLOCK)];
            self.dirty.entry(block).or_default().push(content.to_vec());
        }
    }

    pub(super) fn sync(&mut self) {
        self.write_back(&mut Random(0), 1.0);
        self.lengths.clear();
        self.synced_length = self.cache.len();
        self.durable.resize(self.synced_length, 0);
    }

    /// Each dirty block reaches the disk in its newest content with likelihood `keep`, else in
    /// any or not at all. None is dirty after.
    pub(super) fn write_back(&mut self, random: &mut Random, keep: f64) {
        for (block, mut contents) in std::mem::take(&mut self.dirty) {
            if !random.chance(keep) {
                contents.truncate(random.below(contents.len()));
            }
            let Some(content) = contents.last() else {
                continue;
            };
            let at = block * BLOCK;
            let end = at + content.len();
            if end > self.durable.len() {
                self.durable.resize(end, 0);
            }
            self.durable[at..end].copy_from_slice(content);
        }
    }

    /// What a crash leaves: of the bytes and, apart from them, of the length, which may be short of
    /// the bytes or beyond them.
    pub(super) fn crash(&mut self, random: &mut Random, keep: f64) {
        self.write_back(random, keep);
        self.settle_length(random, keep);
    }

    fn settle_length(&mut self, random: &mut Random, keep: f64) {
        let mut lengths = std::mem::take(&mut self.lengths);
        if !random.chance(keep) {
            lengths.truncate(random.below(lengths.len()));
        }
        self.synced_length = lengths.last().copied().unwrap_or(self.synced_length);
        self.durable.resize(self.synced_length, 0);
        self.cache.clone_from(&self.durable);
    }
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % (end.max(1) as u64)) as usize
    }

    /// True with the likelihood given, from 0 to 1.
    pub fn chance(&mut self, likely: f64) -> bool {
        ((self.number() >> 11) as f64) < likely * (1u64 << 53) as f64
    }
}
