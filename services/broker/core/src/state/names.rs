//! Names of workers, kept once however many tasks mention them.

use super::slab::{NONE, Slab};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
struct Name {
    text: Arc<str>,
    uses: u64,
}

/// Counted names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: Slab<Name>,
    by_text: BTreeMap<Arc<str>, u32>,
}

impl Names {
    /// The key of a name; one use of it for each of `uses`.
    pub(crate) fn acquire(&mut self, text: &Arc<str>, uses: u64) -> u32 {
        let key = match self.by_text.get(text) {
            Some(key) => *key,
            None => {
                let key = self.names.insert(Name {
                    text: Arc::clone(text),
                    uses: 0,
                });
                self.by_text.insert(Arc::clone(text), key);
                key
            }
        };
        self.names[key].uses += uses;
        key
    }

    /// One use less.
    pub(crate) fn release(&mut self, key: u32) {
        let Some(name) = self.names.get_mut(key) else {
            return;
        };
        name.uses = name.uses.saturating_sub(1);
        if name.uses == 0
            && let Some(name) = self.names.remove(key)
        {
            self.by_text.remove(&name.text);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_text.len()
    }

    /// The name, if the key is one.
    pub(crate) fn get(&self, key: u32) -> Option<&Arc<str>> {
        if key == NONE {
            None
        } else {
            self.names.get(key).map(|name| &name.text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_forgotten_with_its_last_use() {
        let mut names = Names::default();
        let key = names.acquire(&"w1".into(), 2);
        assert_eq!(names.acquire(&"w1".into(), 0), key);
        names.release(key);
        assert_eq!(names.get(key).map(|n| &**n), Some("w1"));
        names.release(key);
        assert_eq!(names.get(key), None);
        assert!(names.by_text.is_empty());
    }
}
