//! One copy of each string that many objects repeat: namespaces, node names, zones, port names.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::{HashSet, HashSetExt as _};

use crate::model::{ObjectKey, Placement};

/// Shared strings and what is made of them.
#[derive(Debug, Default)]
pub(super) struct Interner {
    strings: Pool<str>,
    placements: Pool<Placement>,
}

impl Interner {
    /// The shared copy of a string.
    pub(super) fn string(&mut self, text: &str) -> Arc<str> {
        self.strings.get(text, || text.into())
    }

    /// The shared copy of the key of a Service, which its slices name too.
    pub(super) fn key(&mut self, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::shared(namespace, name, |text| self.string(text))
    }

    /// The shared copy of a placement: endpoints of a node mostly have the same hints, if any.
    pub(super) fn placement<'a>(
        &mut self,
        node: Option<&str>,
        zone_hints: impl Iterator<Item = &'a str>,
        node_hints: impl Iterator<Item = &'a str>,
    ) -> Arc<Placement> {
        let placement = Placement {
            node: node.map(|node| self.string(node)),
            zone_hints: zone_hints.map(|zone| self.string(zone)).collect(),
            node_hints: node_hints.map(|node| self.string(node)).collect(),
        };
        self.placements.get(&placement, || placement.clone().into())
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
    fn equal_strings_and_placements_share_memory() {
        let mut interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.string("zone-a"), &interner.string("zone-a")));
        let mut placement =
            |node, zones: [&'static str; 2]| interner.placement(node, zones.into_iter(), [].into_iter());
        let first = placement(Some("n"), ["a", "b"]);
        assert!(Arc::ptr_eq(&first, &placement(Some("n"), ["a", "b"])));
        assert_ne!(first, placement(Some("n"), ["b", "a"]));
        assert_ne!(first, placement(None, ["a", "b"]));
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
