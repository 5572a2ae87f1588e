//! A slab in pages: dense u32 keys, constant time, and no copy of everything when it grows. A page whose values are
//! all removed gives its memory back, so that a backlog that is done costs nothing any more.
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

#[derive(Debug)]
struct Page<T> {
    /// As many as were ever used at once; no memory when it was given back.
    entries: Vec<Entry<T>>,
    /// The first free place among the entries, or NONE.
    free: u32,
    used: u32,
    /// The page below it on the stack of those with room, or NONE.
    below: u32,
}

impl<T> Page<T> {
    fn put(&mut self, value: T) -> u32 {
        self.used += 1;
        if self.free == NONE {
            if self.entries.capacity() == 0 {
                self.entries.reserve_exact(PAGE);
            }
            self.entries.push(Entry::Used(value));
            return self.entries.len() as u32 - 1;
        }
        let at = self.free;
        let entry = &mut self.entries[at as usize];
        if let Entry::Free(next) = std::mem::replace(entry, Entry::Used(value)) {
            self.free = next;
        }
        at
    }

    fn take(&mut self, at: usize) -> Option<T> {
        let entry = self.entries.get_mut(at)?;
        if matches!(entry, Entry::Free(_)) {
            return None;
        }
        let Entry::Used(value) = std::mem::replace(entry, Entry::Free(self.free)) else {
            return None;
        };
        self.free = at as u32;
        self.used -= 1;
        Some(value)
    }
}

/// Values with stable keys.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Page<T>>,
    /// The page that is filled: the top of the stack of those with room, or NONE.
    top: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            top: NONE,
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
        if self.top == NONE {
            self.top = u32::try_from(self.pages.len())
                .ok()
                .filter(|page| *page < NONE >> PAGE_BITS)
                .expect("a slab holds fewer than 2^32 values");
            self.pages.push(Page {
                entries: Vec::new(),
                free: NONE,
                used: 0,
                below: NONE,
            });
        }
        let number = self.top;
        let page = &mut self.pages[number as usize];
        let at = page.put(value);
        if page.used as usize == PAGE {
            self.top = page.below;
        }
        (number << PAGE_BITS) | at
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        let number = key >> PAGE_BITS;
        let page = self.pages.get_mut(number as usize)?;
        let value = page.take(key as usize & (PAGE - 1))?;
        self.len -= 1;
        if page.used as usize == PAGE - 1 {
            page.below = std::mem::replace(&mut self.top, number);
            let below = page.below;
            self.give_back(below);
        } else if page.used == 0 {
            self.give_back(number);
        }
        Some(value)
    }

    /// Frees the memory of a page without values, but for the one that is filled: that may be emptied and filled
    /// again all the time.
    fn give_back(&mut self, number: u32) {
        let page = self.pages.get_mut(number as usize);
        if let Some(page) = page.filter(|page| page.used == 0 && number != self.top) {
            page.entries = Vec::new();
            page.free = NONE;
        }
    }

    /// The value under a key.
    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        let page = self.pages.get((key >> PAGE_BITS) as usize)?;
        match page.entries.get(key as usize & (PAGE - 1))? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }

    /// All values with their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> + '_ {
        let pages = self.pages.iter().enumerate();
        pages.flat_map(|(number, page)| {
            let entries = page.entries.iter().enumerate();
            entries.filter_map(move |(at, entry)| match entry {
                Entry::Used(value) => Some(((number << PAGE_BITS) as u32 | at as u32, value)),
                Entry::Free(_) => None,
            })
        })
    }

    /// The value under a key.
    pub(crate) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        let page = self.pages.get_mut((key >> PAGE_BITS) as usize)?;
        match page.entries.get_mut(key as usize & (PAGE - 1))? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
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
        assert!(slab.iter().all(|(key, value)| slab[key] == *value));
        assert_eq!(slab.iter().count(), 3000);
        assert_eq!(slab.len(), 3000);
        assert_eq!(slab.get(NONE), None);
    }

    /// Pages that have memory.
    fn pages_held(slab: &Slab<usize>) -> usize {
        let held = slab.pages.iter().filter(|page| page.entries.capacity() > 0);
        held.count()
    }

    #[test]
    fn pages_that_are_empty_give_their_memory_back_and_are_filled_again() {
        let mut slab = Slab::default();
        let keys: Vec<u32> = (0..10 * PAGE).map(|value| slab.insert(value)).collect();
        assert_eq!(pages_held(&slab), 10);
        let kept = keys[5 * PAGE + 3];
        for key in keys.iter().filter(|key| **key != kept) {
            assert!(slab.remove(*key).is_some());
        }
        // The one with a value, and the one that is filled next.
        assert!(pages_held(&slab) <= 2);
        assert_eq!(
            (slab.len(), slab.get(kept), slab.get(keys[9])),
            (1, Some(&(5 * PAGE + 3)), None)
        );
        let again: std::collections::BTreeSet<u32> =
            (0..10 * PAGE - 1).map(|value| slab.insert(value)).collect();
        assert_eq!(again.len(), 10 * PAGE - 1, "each key is given once");
        assert!(!again.contains(&kept));
        assert_eq!((slab.pages.len(), pages_held(&slab)), (10, 10));
        slab.insert(0);
        assert_eq!(slab.pages.len(), 11);
    }

    #[test]
    fn one_value_that_comes_and_goes_costs_no_allocation_each_time() {
        let mut slab = Slab::default();
        let key = slab.insert(1);
        let place = slab.pages[0].entries.as_ptr();
        slab.remove(key);
        assert_eq!(slab.insert(2), key);
        assert_eq!(slab.pages[0].entries.as_ptr(), place);
    }
}
