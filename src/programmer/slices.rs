//! How many elements one transaction of a load has. A load fills tables and maps that no packet sees yet.

use std::time::Duration;

use crate::ruleset::{Op, Transaction};

/// How long one transaction of a load, a slice, should take: other users of nf_tables wait that long.
const LOAD: Duration = Duration::from_millis(50);
/// The same where a map's successor is filled, or the map emptied: changes wait that long.
const SUCCESSOR: Duration = Duration::from_millis(4);
/// Elements of the first slice: a slow machine takes 5 microseconds for each.
const FIRST: usize = 8 * 1024;
/// The fewest and the most elements of a slice. Memory for a slice is about 300 bytes for each.
const FEWEST: usize = 1024;
const MOST: usize = 64 * 1024;

/// The size of slices, in elements. It follows the time they take, and never exceeds what the kernel takes in one message.
#[derive(Debug)]
pub(super) struct Slices {
    size: usize,
    most: usize,
    duration: Duration,
}

impl Slices {
    /// Of loads.
    pub(super) fn of_loads() -> Self {
        Self { size: FIRST, most: MOST, duration: LOAD }
    }

    /// Of what fills successors.
    pub(super) fn of_successors() -> Self {
        Self { size: FEWEST, duration: SUCCESSOR, ..Self::of_loads() }
    }

    /// The size of the next one.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Records how long a slice with so many elements took.
    pub(super) fn took(&mut self, elements: usize, time: Duration) {
        if elements >= self.size {
            self.size = next_size(self.size, elements, time, self.duration).min(self.most);
        }
    }

    /// Records that a slice with so many elements was too large a message (EMSGSIZE): the socket's buffer bounds what can
    /// be sent at once, and without CAP_NET_ADMIN in the first user namespace it cannot exceed net.core.wmem_max.
    pub(super) fn too_large(&mut self, elements: usize) {
        self.most = self.most.min(elements / 2).max(1);
        self.size = self.size.min(self.most);
    }
}

/// The size of the next slice when one that should have this size had so many elements and took so long.
fn next_size(size: usize, elements: usize, took: Duration, wanted: Duration) -> usize {
    let fitting = elements as f64 * wanted.as_secs_f64() / took.as_secs_f64().max(1e-6);
    // At most doubled or halved: a single measurement may be off.
    (fitting as usize).clamp(size / 2, size * 2).clamp(FEWEST, MOST)
}

/// Two halves of a transaction, by its elements and in its order; `None` where there is nothing to halve. Only for parts of a
/// load, which may be applied one by one.
pub(super) fn halves(part: &Transaction) -> Option<[Transaction; 2]> {
    let (elements, deleted) = part.element_counts();
    if elements < 2 || deleted > 0 {
        return None;
    }
    let mut halves = [Transaction::default(), Transaction::default()];
    let mut room = elements / 2;
    for (family, op) in &part.ops {
        let Op::AddElements(set, list) = op else {
            halves[usize::from(room == 0)].push(*family, op.clone());
            continue;
        };
        let (first, second) = list.split_at(room.min(list.len()));
        room -= first.len();
        for (half, list) in halves.iter_mut().zip([first, second]) {
            half.push(*family, Op::AddElements(*set, list.to_vec()));
        }
    }
    Some(halves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::ruleset::{Bytes, ChainId, Element, SetId, Value};

    #[test]
    fn slices_follow_the_speed_of_the_kernel() {
        let after = |size, milliseconds| next_size(size, size, Duration::from_millis(milliseconds), LOAD);
        assert_eq!(after(8_192, 50), 8_192);
        assert_eq!(after(8_192, 40), 10_240);
        assert_eq!(after(8_192, 1), 16_384);
        assert_eq!(after(8_192, 10_000), 4_096);
        assert_eq!(after(1_024, 10_000), FEWEST);
        assert_eq!(after(MOST, 0), MOST);
        let larger = next_size(8_192, 16_384, LOAD, LOAD);
        assert_eq!(larger, 16_384, "elements of one owner stay together, so there can be more than asked for");
    }

    #[test]
    fn slices_stay_below_what_was_too_large() {
        let mut slices = Slices::of_loads();
        slices.too_large(FIRST);
        assert_eq!(slices.size(), FIRST / 2);
        slices.took(FIRST / 2, Duration::from_millis(1));
        assert_eq!(slices.size(), FIRST / 2, "however fast the kernel is");
        slices.too_large(1);
        assert_eq!(slices.size(), 1, "never none");
    }

    #[test]
    fn halves_have_all_elements_in_order() {
        let element = |n: u32| Element { key: Bytes::new().u32_host(n), end: None, value: Value::None, comment: None };
        let mut part = Transaction::default();
        part.push(Family::Ipv4, Op::AddElements(SetId::NodeIps.into(), (0..3).map(element).collect()));
        part.push(Family::Ipv4, Op::AddElements(SetId::ClusterIps.into(), (3..8).map(element).collect()));
        let [mut first, second] = halves(&part).expect("two");
        assert_eq!([&first, &second].map(|half| half.element_counts().0), [4, 4]);
        first.extend(second);
        let all = first.ops.iter().flat_map(|(_, op)| match op {
            Op::AddElements(_, list) => list.clone(),
            _ => Vec::new(),
        });
        assert_eq!(all.collect::<Vec<_>>(), (0..8).map(element).collect::<Vec<_>>());
        // A table that is made at once: what is before its elements, and what is behind them.
        let chain = |chain| (Family::Ipv4, Op::AddChain(chain));
        part.ops.insert(0, (Family::Ipv4, Op::AddTable));
        part.ops.push(chain(ChainId::Prerouting));
        let [first, second] = halves(&part).expect("two");
        assert_eq!((&first.ops[0], second.ops.last()), (&part.ops[0], Some(&chain(ChainId::Prerouting))));
        assert!(!first.ops.contains(&chain(ChainId::Prerouting)) && second.element_counts().0 == 4);
        part.ops.retain(|(_, op)| !matches!(op, Op::AddElements(..)));
        assert!(halves(&part).is_none(), "only elements are taken apart");
    }
}
