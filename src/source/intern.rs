//! One copy of each string that many objects repeat: namespaces, node names, zones, port names.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Shared strings and shared lists of strings.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: Pool<str>,
    lists: Pool<[Arc<str>]>,
}

impl Interner {
    /// The shared copy of a string.
    pub(super) fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.get(text, || text.into())
    }

    /// The shared copy of a list of strings (topology hints: the same few lists on all endpoints).
    pub(super) fn list<'a>(&mut self, texts: impl Iterator<Item = &'a str>) -> Arc<[Arc<str>]> {
        let list: Vec<Arc<str>> = texts.map(|text| self.string(text)).collect();
        self.lists.get(&list, || list.as_slice().into())
    }
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: 1024 }
    }
}

impl<T: ?Sized + Hash + Eq> Pool<T> {
    fn get(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            // Names of pods and nodes long gone must not pile up over months.
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        let made = make();
        self.known.insert(made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_and_lists_share_memory() {
        let mut interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.string("zone-a"), &interner.string("zone-a")));
        let first = interner.list(["a", "b"].into_iter());
        assert!(Arc::ptr_eq(&first, &interner.list(["a", "b"].into_iter())));
        assert_eq!(interner.list(std::iter::empty()).len(), 0);
    }

    #[test]
    fn strings_nobody_uses_are_dropped() {
        let mut interner = Interner::default();
        let kept = interner.string("kept");
        for number in 0..5000 {
            interner.string(&number.to_string());
        }
        assert!(interner.strings.known.len() < 2048, "{}", interner.strings.known.len());
        assert!(Arc::ptr_eq(&kept, &interner.string("kept")));
    }
}
