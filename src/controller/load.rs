//! How much at once is loaded of what packets do not see yet.

use std::time::{Duration, Instant};

use crate::ruleset::{Op, Transaction};

/// How long a slice should take: so long others wait for their turn with nf_tables.
const SLICE: Duration = Duration::from_millis(50);
/// Elements of the first slice: a slow machine takes 5 microseconds for each.
const FIRST: usize = 8 * 1024;
/// The fewest and the most elements of a slice. Memory for a slice is about 300 bytes for each.
const FEWEST: usize = 1024;
const MOST: usize = 64 * 1024;

/// The size of slices, in elements.
#[derive(Debug)]
pub(super) struct Slice {
    size: usize,
    /// More did not fit into the socket's buffer.
    most: usize,
}

impl Default for Slice {
    fn default() -> Self {
        Self { size: FIRST, most: MOST }
    }
}

impl Slice {
    /// The size of the next one.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Sends a slice, in smaller ones where the kernel says that it is too big; the number of elements.
    pub(super) fn send<E>(
        &mut self,
        slice: Transaction,
        mut send: impl FnMut(&Transaction) -> Result<(), E>,
        is_too_big: impl Fn(&E) -> bool,
    ) -> Result<usize, E> {
        let (mut waiting, mut sent) = (vec![slice], 0);
        while let Some(part) = waiting.pop() {
            let (elements, _) = part.element_counts();
            let start = Instant::now();
            match send(&part) {
                Err(error) if elements > 1 && is_too_big(&error) => {
                    let (first, second) = halves(part, elements / 2);
                    self.most = self.most.min(elements / 2);
                    self.size = self.size.min(self.most);
                    waiting.extend([second, first]);
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    sent += elements;
                    self.took(elements, start.elapsed());
                }
            }
        }
        Ok(sent)
    }

    /// So many elements took so long.
    fn took(&mut self, elements: usize, time: Duration) {
        if elements == self.size {
            self.size = next_size(elements, time).min(self.most);
        }
    }
}

/// Two transactions, the first with so many of the elements.
fn halves(transaction: Transaction, elements: usize) -> (Transaction, Transaction) {
    let (mut first, mut second, mut left) = (Transaction::default(), Transaction::default(), elements);
    for (family, op) in transaction.ops {
        match op {
            Op::AddElements(set, mut list) if list.len() > left => {
                let rest = list.split_off(left);
                left = 0;
                first.push(family, Op::AddElements(set, list));
                second.push(family, Op::AddElements(set, rest));
            }
            Op::AddElements(set, list) => {
                left -= list.len();
                first.push(family, Op::AddElements(set, list));
            }
            op if left > 0 || second.is_empty() => first.push(family, op),
            op => second.push(family, op),
        }
    }
    (first, second)
}

/// The size of the next slice when one of this size took so long.
fn next_size(size: usize, took: Duration) -> usize {
    let fitting = size as f64 * SLICE.as_secs_f64() / took.as_secs_f64().max(1e-6);
    // Not at once up to it: a single measurement may be off.
    (fitting as usize).clamp(size / 2, size * 2).clamp(FEWEST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::ruleset::{Bytes, Element, SetId, Value};

    fn elements(range: std::ops::Range<u32>) -> Vec<Element> {
        let element = |n| Element { key: Bytes::new().u32_host(n), end: None, value: Value::None, comment: None };
        range.map(element).collect()
    }

    #[test]
    fn slices_that_are_too_big_become_smaller() {
        let op = |set: SetId, range| (Family::Ipv4, Op::AddElements(set.into(), elements(range)));
        let ops = vec![op(SetId::NodeIps, 0..3_000), op(SetId::ClusterIps, 0..5_192)];
        let (mut slice, mut sent, mut refused) = (Slice::default(), Vec::new(), 0);
        let result = slice.send(
            Transaction { ops: ops.clone() },
            |part| {
                let (count, _) = part.element_counts();
                refused += usize::from(count > 700);
                if count > 700 {
                    return Err(libc::EMSGSIZE);
                }
                sent.extend(part.ops.clone());
                Ok(())
            },
            |errno| *errno == libc::EMSGSIZE,
        );
        assert_eq!(result, Ok(8_192));
        let all = |set: SetId, ops: &[(Family, Op)]| -> Vec<Element> {
            let lists = ops.iter().filter_map(|(_, op)| match op {
                Op::AddElements(name, list) if name.set == set => Some(list.clone()),
                _ => None,
            });
            lists.flatten().collect()
        };
        for set in [SetId::NodeIps, SetId::ClusterIps] {
            assert!(all(set, &sent) == all(set, &ops), "{set:?}: in order, and each once");
        }
        assert_eq!((slice.size(), slice.most), (512, 512));
        slice.took(512, Duration::from_millis(1));
        assert_eq!(slice.size(), 512, "it does not grow again");
        assert_eq!(slice.send(Transaction { ops }, |_| Err(libc::ENOMEM), |_| false), Err(libc::ENOMEM));
        assert_eq!(refused, 15);
    }

    #[test]
    fn slices_follow_the_speed_of_the_kernel() {
        let after = |size, milliseconds| next_size(size, Duration::from_millis(milliseconds));
        assert_eq!(after(8_192, 50), 8_192);
        assert_eq!(after(8_192, 40), 10_240);
        assert_eq!(after(8_192, 1), 16_384);
        assert_eq!(after(8_192, 10_000), 4_096);
        assert_eq!(after(1_024, 10_000), FEWEST);
        assert_eq!(after(MOST, 0), MOST);
    }
}
