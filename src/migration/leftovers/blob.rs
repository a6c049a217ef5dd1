//! A legacy iptables table as the kernel holds it: entries one behind the other, jumps as offsets
//! (`linux/netfilter_ipv4/ip_tables.h`, `linux/netfilter/x_tables.h`; 64-bit).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::address;
use crate::model::Family;

/// `XT_TABLE_MAXNAMELEN`.
pub(super) const NAME_LEN: usize = 32;
/// `NF_INET_NUMHOOKS`.
const HOOKS: usize = 5;
/// A target's name begins behind its size, and its data behind its head.
const TARGET_NAME: usize = 2;
const TARGET_DATA: usize = 32;
/// `NF_INET_FORWARD`.
const FORWARD: usize = 2;
/// `-NF_DROP - 1`, as a verdict of the standard target.
const DROP: u32 = u32::MAX;
/// `XT_ERROR_TARGET`: the head of a chain, with its name, and the end of the table.
const ERROR: &str = "ERROR";

/// What differs between the families.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Of the socket options.
    pub(super) level: i32,
    /// Where an entry says where its target and the next entry begin.
    target_offset: usize,
    /// The least length of an entry.
    entry_len: usize,
}

impl Layout {
    /// `struct ipt_entry`.
    pub(super) const IPV4: Self = Self { level: libc::IPPROTO_IP, target_offset: 88, entry_len: 112 };
    /// `struct ip6t_entry`.
    pub(super) const IPV6: Self = Self { level: libc::IPPROTO_IPV6, target_offset: 140, entry_len: 168 };
}

/// `struct ipt_getinfo` without the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    valid_hooks: u32,
    hook_entry: [u32; HOOKS],
    underflow: [u32; HOOKS],
    pub(super) num_entries: u32,
    /// Bytes of all entries.
    pub(super) size: u32,
}

impl Info {
    pub(super) const LEN: usize = NAME_LEN + 4 * (3 + 2 * HOOKS);

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let number = |index: usize| u32_at(bytes, NAME_LEN + 4 * index);
        let mut info = Self {
            valid_hooks: number(0)?,
            hook_entry: [0; HOOKS],
            underflow: [0; HOOKS],
            num_entries: number(1 + 2 * HOOKS)?,
            size: number(2 + 2 * HOOKS)?,
        };
        for hook in 0..HOOKS {
            info.hook_entry[hook] = number(1 + hook)?;
            info.underflow[hook] = number(1 + HOOKS + hook)?;
        }
        Some(info)
    }

    /// Hooks without a chain have no meaningful offsets.
    fn begins_hook(&self, offset: u32) -> bool {
        (0..HOOKS).any(|hook| self.valid_hooks & (1 << hook) != 0 && self.hook_entry[hook] == offset)
    }
}

/// A table.
pub(super) struct Blob {
    pub(super) info: Info,
    entries: Vec<RuleEntry>,
}

struct RuleEntry {
    offset: u32,
    bytes: Vec<u8>,
    target: usize,
    kind: RuleTarget,
}

#[derive(Debug, PartialEq, Eq)]
enum RuleTarget {
    /// The head of a chain.
    Head(String),
    /// A jump, also to the next entry.
    Jump(u32),
    /// A verdict, or an extension.
    Other,
}

/// A table without some chains.
pub(super) struct Smaller {
    pub(super) blob: Blob,
    /// Its entries, as indices into the old ones.
    pub(super) kept: Vec<usize>,
    /// Chains that are gone.
    pub(super) chains: usize,
}

impl Blob {
    /// `None` if it makes no sense.
    pub(super) fn read(info: Info, bytes: Vec<u8>, layout: &Layout) -> Option<Self> {
        let mut entries = Vec::with_capacity(info.num_entries as usize);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let target = usize::from(u16_at(rest, layout.target_offset)?);
            let len = usize::from(u16_at(rest, layout.target_offset + 2)?);
            if target < layout.entry_len || len < target + TARGET_DATA {
                return None;
            }
            let (entry, tail) = rest.split_at_checked(len)?;
            let kind = match text_at(entry, target + TARGET_NAME)? {
                "" => u32_at(entry, target + TARGET_DATA).map(|verdict| match i32::try_from(verdict) {
                    Ok(_) => RuleTarget::Jump(verdict),
                    // ACCEPT, DROP, RETURN, QUEUE.
                    Err(_) => RuleTarget::Other,
                })?,
                ERROR => RuleTarget::Head(text_at(entry, target + TARGET_DATA)?.to_owned()),
                _ => RuleTarget::Other,
            };
            let offset = (bytes.len() - rest.len()) as u32;
            entries.push(RuleEntry { offset, bytes: entry.to_vec(), target, kind });
            rest = tail;
        }
        (entries.len() == info.num_entries as usize).then_some(Self { info, entries })
    }

    /// The table without the chains of these names, and without the rules elsewhere that lead into them; `None` when it
    /// has none of them.
    pub(super) fn without(&self, is_unwanted: impl Fn(&str) -> bool) -> Option<Smaller> {
        let (mut unwanted, mut within, mut chains) = (BTreeSet::new(), false, 0);
        for entry in &self.entries {
            if let RuleTarget::Head(name) = &entry.kind {
                within = is_unwanted(name);
                chains += usize::from(within);
            } else if self.info.begins_hook(entry.offset) {
                within = false;
            }
            if within {
                unwanted.insert(entry.offset);
            }
        }
        if chains == 0 {
            return None;
        }
        let goes = |entry: &RuleEntry| {
            unwanted.contains(&entry.offset) || matches!(entry.kind, RuleTarget::Jump(to) if unwanted.contains(&to))
        };
        // Where each entry goes; for one that is gone, the next that stays: rules without a target lead to the next.
        let (mut moved, mut size) = (BTreeMap::new(), 0);
        for entry in &self.entries {
            moved.insert(entry.offset, size);
            size += if goes(entry) { 0 } else { entry.bytes.len() as u32 };
        }
        let moved = |offset: u32| moved.get(&offset).copied();
        let mut kept = Vec::new();
        let mut entries = Vec::new();
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| !goes(entry)) {
            let mut bytes = entry.bytes.clone();
            if let RuleTarget::Jump(to) = entry.kind {
                let at = entry.target + TARGET_DATA;
                bytes[at..at + 4].copy_from_slice(&moved(to)?.to_ne_bytes());
            }
            kept.push(index);
            entries.push(RuleEntry {
                offset: moved(entry.offset)?,
                bytes,
                target: entry.target,
                kind: RuleTarget::Other,
            });
        }
        let mut info = Info { num_entries: entries.len() as u32, size, ..self.info };
        for hook in (0..HOOKS).filter(|hook| self.info.valid_hooks & (1 << hook) != 0) {
            info.hook_entry[hook] = moved(self.info.hook_entry[hook])?;
            info.underflow[hook] = moved(self.info.underflow[hook])?;
        }
        Some(Smaller { blob: Self { info, entries }, kept, chains })
    }

    /// The single addresses that rules of a chain want as destination (`struct ipt_ip`, `struct ip6t_ip6`: source,
    /// destination, and their masks).
    pub(super) fn destinations(&self, chain: &str, family: Family) -> Vec<IpAddr> {
        let len = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        };
        let (mut within, mut found) = (false, Vec::new());
        for entry in &self.entries {
            if let RuleTarget::Head(name) = &entry.kind {
                within = name == chain;
            } else if self.info.begins_hook(entry.offset) {
                within = false;
            } else if within && entry.bytes[3 * len..4 * len].iter().all(|byte| *byte == 0xff) {
                found.extend(address(family, &entry.bytes[len..]));
            }
        }
        found
    }

    /// Whether packets end in chain FORWARD that none of its rules accepts: the policy is the last rule.
    pub(super) fn drops_forwarded(&self) -> bool {
        if self.info.valid_hooks & (1 << FORWARD) == 0 {
            return false;
        }
        let policy = self.entries.iter().find(|entry| entry.offset == self.info.underflow[FORWARD]);
        policy.is_some_and(|entry| u32_at(&entry.bytes, entry.target + TARGET_DATA) == Some(DROP))
    }

    /// `struct ipt_replace`, with room for the pointer to the old counters, and the entries.
    pub(super) fn replace(&self, name: &[u8; NAME_LEN], num_counters: u32) -> Vec<u8> {
        let info = &self.info;
        let mut out = name.to_vec();
        let numbers = [info.valid_hooks, info.num_entries, info.size].into_iter().chain(info.hook_entry);
        for number in numbers.chain(info.underflow).chain([num_counters]) {
            out.extend_from_slice(&number.to_ne_bytes());
        }
        out.extend_from_slice(&[0; 8]);
        self.entries.iter().for_each(|entry| out.extend_from_slice(&entry.bytes));
        out
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A zero-terminated name of less than 30 bytes (`XT_EXTENSION_MAXNAMELEN`, `XT_FUNCTION_MAXNAMELEN`).
fn text_at(bytes: &[u8], at: usize) -> Option<&str> {
    let bytes = bytes.get(at..bytes.len().min(at + 30))?;
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry without conditions. `name` and `data` are the target's.
    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let target = TARGET_DATA + data.len().next_multiple_of(8);
        let mut bytes = vec![0; 112 + target];
        bytes[88..90].copy_from_slice(&112_u16.to_ne_bytes());
        bytes[90..92].copy_from_slice(&(112 + target as u16).to_ne_bytes());
        bytes[112..114].copy_from_slice(&(target as u16).to_ne_bytes());
        bytes[114..114 + name.len()].copy_from_slice(name.as_bytes());
        bytes[144..144 + data.len()].copy_from_slice(data);
        bytes
    }

    fn head(name: &str) -> Vec<u8> {
        let mut data = [0; 30];
        data[..name.len()].copy_from_slice(name.as_bytes());
        entry(ERROR, &data)
    }

    fn verdict(verdict: i32) -> Vec<u8> {
        entry("", &verdict.to_ne_bytes())
    }

    const ACCEPT: i32 = -2;
    const RETURN: i32 = -5;

    /// One hook with a chain, and the chains A, KUBE-X and B. Entries with verdicts are 152 bytes, heads 176.
    fn table() -> (Info, Vec<u8>) {
        let entries = [
            verdict(960),    // 0: jump to KUBE-X
            verdict(304),    // 152: no target: on to the next
            verdict(ACCEPT), // 304: the policy
            head("A"),       // 456
            verdict(RETURN), // 632
            head("KUBE-X"),  // 784
            verdict(632),    // 960: jump to A
            verdict(RETURN), // 1112
            head("B"),       // 1264
            verdict(960),    // 1440: jump to KUBE-X
            verdict(632),    // 1592: jump to A
            verdict(RETURN), // 1744
            head(ERROR),     // 1896
        ];
        let bytes = entries.concat();
        let info = Info {
            valid_hooks: 1 << 3,
            hook_entry: [7, 7, 7, 0, 7],
            underflow: [7, 7, 7, 304, 7],
            num_entries: entries.len() as u32,
            size: bytes.len() as u32,
        };
        (info, bytes)
    }

    #[test]
    fn chains_go_and_jumps_follow() {
        let (info, bytes) = table();
        let blob = Blob::read(info, bytes, &Layout::IPV4).expect("a table");
        assert!(blob.without(|name| name == "OTHER").is_none());
        let smaller = blob.without(|name| name.starts_with("KUBE-")).expect("a chain less");
        assert_eq!((smaller.chains, smaller.kept), (1, vec![1, 2, 3, 4, 8, 10, 11, 12]));
        let expected = [
            verdict(152),
            verdict(ACCEPT),
            head("A"),
            verdict(RETURN),
            head("B"),
            verdict(480),
            verdict(RETURN),
            head(ERROR),
        ]
        .concat();
        let replace = smaller.blob.replace(&[b'n'; NAME_LEN], 13);
        assert_eq!(replace[96..], expected);
        let numbers: Vec<u32> = (32..88).step_by(4).filter_map(|at| u32_at(&replace, at)).collect();
        let (entries, size) = (8, expected.len() as u32);
        assert_eq!(numbers, [8, entries, size, 7, 7, 7, 0, 7, 7, 7, 7, 152, 7, 13]);
    }

    #[test]
    fn the_policy_of_forward_is_read() {
        for (policy, drops) in [(-1, true), (ACCEPT, false)] {
            let entries = [verdict(RETURN), verdict(policy), head(ERROR)];
            let bytes = entries.concat();
            let mut info = Info {
                valid_hooks: 1 << FORWARD,
                hook_entry: [0; HOOKS],
                underflow: [0, 0, 152, 0, 0],
                num_entries: entries.len() as u32,
                size: bytes.len() as u32,
            };
            let blob = |info| Blob::read(info, bytes.clone(), &Layout::IPV4).expect("a table");
            assert_eq!(blob(info).drops_forwarded(), drops);
            info.valid_hooks = 0;
            assert!(!blob(info).drops_forwarded(), "no such chain");
        }
    }

    #[test]
    fn nonsense_is_no_table() {
        let (info, bytes) = table();
        for len in [1, 100, 113, 151, bytes.len() - 1, bytes.len() - 176] {
            assert!(Blob::read(info, bytes[..len].to_vec(), &Layout::IPV4).is_none(), "{len}");
        }
        let mut endless = bytes.clone();
        endless[90..92].copy_from_slice(&[0, 0]);
        assert!(Blob::read(info, endless, &Layout::IPV4).is_none());
        let mut astray = bytes;
        astray[1592 + 144..1592 + 148].copy_from_slice(&1_u32.to_ne_bytes());
        let blob = Blob::read(info, astray, &Layout::IPV4).expect("a table");
        assert!(blob.without(|name| name == "KUBE-X").is_none(), "a jump to nowhere");
    }
}
