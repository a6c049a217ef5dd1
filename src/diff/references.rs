//! Things several Services share: in force while at least one of them needs it.

use std::hash::Hash;

use foldhash::{HashMap, HashMapExt as _};

/// Reference counts, and which keys came or went since [`References::take_changes`].
#[derive(Debug, Clone)]
pub(super) struct References<K> {
    counts: HashMap<K, u32>,
    /// Keys touched, with whether they were in force before.
    touched: HashMap<K, bool>,
}

impl<K> Default for References<K> {
    fn default() -> Self {
        Self { counts: HashMap::new(), touched: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> References<K> {
    pub(super) fn add(&mut self, key: K) {
        let count = self.counts.entry(key).or_insert(0);
        self.touched.entry(key).or_insert(*count > 0);
        *count += 1;
    }

    pub(super) fn remove(&mut self, key: K) {
        let Some(count) = self.counts.get_mut(&key) else {
            return;
        };
        self.touched.entry(key).or_insert(true);
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
        }
    }

    /// What came into force and what went out of it since the last call, sorted.
    pub(super) fn take_changes(&mut self) -> (Vec<K>, Vec<K>) {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        // Taken, not drained: after a first sync it is as large as everything in force.
        for (key, before) in std::mem::take(&mut self.touched) {
            match (before, self.counts.contains_key(&key)) {
                (false, true) => came.push(key),
                (true, false) => went.push(key),
                _ => {}
            }
        }
        came.sort_unstable();
        went.sort_unstable();
        (came, went)
    }

    /// Whether something is in force.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.counts.contains_key(key)
    }

    /// Everything in force.
    pub(super) fn keys(&self) -> impl Iterator<Item = K> {
        self.counts.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_and_the_last_reference_count() {
        let mut counted = References::default();
        counted.add(1);
        counted.add(1);
        counted.add(2);
        counted.remove(2);
        assert_eq!(counted.take_changes(), (vec![1], vec![]));
        counted.remove(1);
        assert_eq!(counted.take_changes(), (vec![], vec![]));
        counted.remove(1);
        counted.add(1);
        assert_eq!(counted.take_changes(), (vec![], vec![]), "replaced within one sync");
        counted.remove(1);
        assert_eq!(counted.take_changes(), (vec![], vec![1]));
        assert_eq!(counted.keys().count(), 0);
    }
}
