//! Which endpoint has which slots, where it is not just one each: for consistent hashing, and with weights.
//!
//! A table has more slots than endpoints, and depends on nothing but the endpoints: all nodes make the same one, and a restart
//! makes it again. As with Maglev each endpoint has an order of its own in which it would like the slots, and they take turns.
//! There, one that finds a slot taken goes on to its next at once. Here its turn is over, and it takes no more slots than
//! are its due: so an endpoint that comes or goes moves half as many slots of others. And all tables are of the same
//! blocks, which larger tables have divided into more slots: so growing moves few, too (docs/balancing.md).

use super::Target;
use crate::model::{Balance, EndpointWeights};
use crate::ruleset::{Bytes, jhash};

/// How many slots there can be. Few numbers, because each has chains of its own.
const SLOTS: [u32; 3] = [BLOCKS, 4 * BLOCKS, 16 * BLOCKS];
/// A power of two: every odd step leads round through all of them.
const BLOCKS: u32 = 1024;
/// Slots for each endpoint, or each unit of weight, at least: one more or less is 4 % of them.
const SLOTS_PER_UNIT: u64 = 24;

/// How a frontend spreads connections over its endpoints, if not with one slot for each, taken at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// How a slot is chosen.
    pub balance: Balance,
    /// Endpoints whose weight is not 1, sorted.
    pub weights: Vec<(Target, u8)>,
}

impl Spread {
    /// How many slots these endpoints get. A single one needs no table; more than there can be slots get one each, at random.
    pub fn slot_count(&self, targets: &[Target]) -> u32 {
        match self.table_size(targets) {
            Some(slots) => slots,
            None => targets.len() as u32,
        }
    }

    /// The endpoint in each slot. `targets` are sorted, and not empty.
    pub fn slots(&self, targets: &[Target]) -> Vec<Target> {
        match self.table_size(targets) {
            Some(slots) => {
                table(targets, &self.weights_of(targets), slots).iter().map(|index| targets[*index]).collect()
            }
            None => targets.to_vec(),
        }
    }

    /// How a slot is chosen of those of these endpoints.
    pub fn balance_of(&self, targets: &[Target]) -> Balance {
        if self.table_size(targets).is_some() { self.balance } else { Balance::Random }
    }

    /// Whether the same client gets the same endpoint on all nodes that have these endpoints.
    pub fn is_alike_everywhere(&self, targets: &[Target]) -> bool {
        self.balance != Balance::Random && (targets.len() == 1 || self.balance_of(targets) != Balance::Random)
    }

    /// The smallest size that gives each enough slots, else the largest; `None` where one each is all there is to do.
    fn table_size(&self, targets: &[Target]) -> Option<u32> {
        let [.., most] = SLOTS;
        let weights = self.weights_of(targets);
        let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let is_useless = is_even && self.balance == Balance::Random;
        if targets.len() < 2 || targets.len() > most as usize || is_useless {
            return None;
        }
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
        let units = weights.iter().sum::<u64>() / divisor.max(1);
        let needed = SLOTS_PER_UNIT * units;
        Some(SLOTS.into_iter().find(|slots| u64::from(*slots) >= needed).unwrap_or(most))
    }

    fn weights_of(&self, targets: &[Target]) -> Vec<u64> {
        let weight = |target| match self.weights.binary_search_by_key(target, |(target, _)| *target) {
            Ok(at) => u64::from(self.weights[at].1.clamp(1, EndpointWeights::MAX)),
            Err(_) => 1,
        };
        targets.iter().map(weight).collect()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An endpoint that takes slots.
struct Taker {
    index: usize,
    /// The block whose slots it would like first.
    first: u32,
    /// To the block after that.
    step: u32,
    /// It takes the slots of a block from the last one on.
    is_backwards: bool,
    /// Slots it has tried.
    tried: u32,
    /// Its turns in a round are its weight in that of the heaviest; here is what was left over.
    credit: u64,
    weight: u64,
    /// Slots it has yet to take; one more where there is one left over.
    due: u64,
}

impl Taker {
    /// The slot it would like next.
    fn next(&mut self, slots: u32) -> usize {
        let width = slots / BLOCKS;
        let block = self.first.wrapping_add(self.step.wrapping_mul(self.tried / width)) % BLOCKS;
        let within = self.tried % width;
        let slot = block * width + if self.is_backwards { width - 1 - within } else { within };
        self.tried = self.tried.wrapping_add(1);
        slot as usize
    }
}

/// The index of the endpoint in each slot. There are no more endpoints than slots.
fn table(targets: &[Target], weights: &[u64], slots: u32) -> Vec<usize> {
    let (count, total, heaviest) = (targets.len() as u64, weights.iter().sum::<u64>(), weights.iter().copied().max());
    let heaviest = heaviest.unwrap_or(1);
    let share = |of: u64, weight: u64| of * weight / total;
    // Where the lightest would get none, each gets one first.
    let first = u64::from(weights.iter().any(|weight| share(slots.into(), *weight) == 0));
    let due = |weight| first + share(u64::from(slots) - first * count, weight);
    let mut left_over = u64::from(slots) - weights.iter().map(|weight| due(*weight)).sum::<u64>();
    let taker = |(index, (target, weight)): (usize, (&Target, &u64))| {
        let key = Bytes::new().ip(target.ip).u16(target.port);
        let (place, way) = (jhash(key.as_slice(), 1), jhash(key.as_slice(), 2));
        let (first, step, is_backwards) = (place % BLOCKS, (way % BLOCKS) | 1, way >= 1 << 31);
        Taker { index, first, step, is_backwards, tried: 0, credit: 0, weight: *weight, due: due(*weight) }
    };
    let mut takers: Vec<Taker> = targets.iter().zip(weights).enumerate().map(taker).collect();
    let mut table = vec![None; slots as usize];
    while !takers.is_empty() {
        takers.retain_mut(|taker| {
            taker.credit += taker.weight;
            while taker.credit >= heaviest && (taker.due > 0 || left_over > 0) {
                taker.credit -= heaviest;
                let slot = &mut table[taker.next(slots)];
                if slot.is_none() {
                    *slot = Some(taker.index);
                    if taker.due > 0 {
                        taker.due -= 1;
                    } else {
                        left_over -= 1;
                        return false;
                    }
                }
            }
            taker.due > 0 || left_over > 0
        });
    }
    table.into_iter().flatten().collect()
}

#[cfg(test)]
#[path = "spread_tests.rs"]
mod tests;
