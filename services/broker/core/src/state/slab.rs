//! A slab in pages: dense u32 keys, constant time, and no copy of everything when it grows.
//!
//! It does not check whether a key was reused: whoever keeps keys must drop them with the entry.

use std::ops::{Index, IndexMut};

/// Stands for "no entry" wherever a key is stored.
pub(crate) const NONE: u32 = u32::MAX;

const PAGE_BITS: u32 = 10;
const PAGE: usize = 1 << PAGE_BITS;

#[derive(Debug)]
enum Entry<T> {
    Free(u32),
    Used(T),
}

/// Values with stable keys.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Vec<Entry<T>>>,
    free: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            free: NONE,
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(crate) fn entry_size() -> usize {
        size_of::<Entry<T>>()
    }

    /// Stores a value.
    ///
    /// # Panics
    /// With more than 2^32 - 2 values, which no memory holds.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free != NONE {
            let key = self.free;
            let entry = self.entry_mut(key);
            if let Some(Entry::Free(next)) = entry.map(|e| std::mem::replace(e, Entry::Used(value)))
            {
                self.free = next;
            }
            return key;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let page = self.pages.len() - 1;
        let last = &mut self.pages[page];
        let key = (page << PAGE_BITS) | last.len();
        last.push(Entry::Used(value));
        u32::try_from(key).expect("a slab holds fewer than 2^32 values")
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        let free = self.free;
        let entry = self.entry_mut(key)?;
        if matches!(entry, Entry::Free(_)) {
            return None;
        }
        let Entry::Used(value) = std::mem::replace(entry, Entry::Free(free)) else {
            return None;
        };
        self.free = key;
        self.len -= 1;
        Some(value)
    }

    /// The value under a key.
    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        match self
            .pages
            .get((key >> PAGE_BITS) as usize)?
            .get(key as usize & (PAGE - 1))?
        {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }

    /// The value under a key.
    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        match self.entry_mut(key)? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }

    fn entry_mut(&mut self, key: u32) -> Option<&mut Entry<T>> {
        self.pages
            .get_mut((key >> PAGE_BITS) as usize)?
            .get_mut(key as usize & (PAGE - 1))
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, key: u32) -> &T {
        self.get(key).expect("a stored key names a value")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, key: u32) -> &mut T {
        self.get_mut(key).expect("a stored key names a value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_keys_are_used_again_and_values_stay() {
        let mut slab = Slab::default();
        let keys: Vec<u32> = (0..3000).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.remove(keys[7]), Some(7));
        assert_eq!(slab.remove(keys[7]), None);
        assert_eq!(slab.get(keys[7]), None);
        assert_eq!(slab.insert(9000), keys[7]);
        assert_eq!(slab[keys[2999]], 2999);
        assert_eq!(slab.len(), 3000);
        assert_eq!(slab.get(NONE), None);
    }
}
