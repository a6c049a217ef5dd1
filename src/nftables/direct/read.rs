//! Reading the table `netdev portway` back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::rules::{self, Code};
use super::write::INGRESS;
use super::{DirectKernel, NETDEV};
use crate::model::Family;
use crate::nftables::connection::RequestError;
use crate::nftables::elements::read_comment;
use crate::nftables::read::objects::{is_anonymous, read_declaration};
use crate::nftables::set::Declaration;
use crate::ruleset::{
    Bytes, DirectChain, DirectElement, DirectElements, DirectFound, DirectFrontend, DirectMap, DirectRule, DirectTable,
    DirectValue, Hop, KernelError, TABLE_NAME,
};
use crate::wire::abi::{self, elem, msg};
use crate::wire::attr::{self, Attr, Attrs};

const READING: &str = "reading the table netdev portway";
/// A map that the kernel is resizing is listed with gaps: so often it is tried again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// What a frontend is found by.
type At = (Family, Bytes);
/// A chain's name, and the instructions of its rules; `None` for a rule that is none of ours.
type Rules = BTreeMap<String, Vec<Option<Vec<Code>>>>;

impl DirectKernel {
    /// What there is of the table. Of one that somebody changes meanwhile the result has the state of some moment.
    pub fn read(&mut self) -> Result<DirectFound, KernelError> {
        match self.read_all() {
            Err(RequestError::Errno(libc::ENOENT)) => Ok(DirectFound::default()),
            result => result.map_err(|error| error.into_kernel(READING)),
        }
    }

    fn read_all(&mut self) -> Result<DirectFound, RequestError> {
        if self.side.find().map_err(RequestError::Other)?.is_none() {
            return Ok(DirectFound::default());
        }
        let mut found = DirectFound { is_there: true, ..DirectFound::default() };
        self.chains(&mut found)?;
        let counts = self.maps(&mut found)?;
        let rules = self.rules()?;
        let mut elements = DirectElements::new();
        for (map, count) in counts {
            match self.elements(map, &found.table.name(map), count)? {
                Some(list) => elements.extend(list),
                None => found.broken = Some(format!("an element of map {}", found.table.name(map))),
            }
        }
        take_frontends(&mut found, elements);
        compare_rules(&mut found, &rules);
        Ok(found)
    }

    fn chains(&mut self, found: &mut DirectFound) -> Result<(), RequestError> {
        let listed = self.side.kernel.connection.dump_again(
            msg::GETCHAIN,
            NETDEV,
            |_| {},
            |message| {
                let attrs = &message.attrs;
                let is_ours = attrs.str_of(abi::chain::TABLE) == Some(TABLE_NAME);
                let name = attrs.str_of(abi::chain::NAME).filter(|_| is_ours);
                Ok(name.map(|name| (name.to_owned(), as_declared(name, attrs))))
            },
        )?;
        for (name, as_declared) in listed.into_iter().flatten() {
            match DirectChain::named(&name, |device| index(found, device)) {
                Some(_) if !as_declared => found.broken = Some(format!("chain {name}")),
                Some(chain) => drop(found.chains.insert(chain)),
                None => found.other_chains.push(name),
            }
        }
        Ok(())
    }

    /// The number of elements of each map, where the kernel says it.
    fn maps(&mut self, found: &mut DirectFound) -> Result<BTreeMap<DirectMap, Option<u32>>, RequestError> {
        let listed = self.side.kernel.connection.dump_again(
            msg::GETSET,
            NETDEV,
            |buf| attr::put_str(buf, abi::set::TABLE, TABLE_NAME),
            |message| {
                let attrs = &message.attrs;
                let is_ours = attrs.str_of(abi::set::TABLE) == Some(TABLE_NAME) && !is_anonymous(attrs);
                let name = attrs.str_of(abi::set::NAME).filter(|_| is_ours);
                Ok(name.map(|name| (name.to_owned(), read_declaration(attrs), attrs.u32_of(abi::set::COUNT))))
            },
        )?;
        let mut counts = BTreeMap::new();
        for (name, declaration, count) in listed.into_iter().flatten() {
            let Some(map) = DirectMap::named(&name, |device| index(found, device)) else {
                found.other_maps.push(name);
                continue;
            };
            if declaration != Some(Declaration::of(map.family(), &map.spec())) {
                found.broken = Some(format!("map {name}"));
                continue;
            }
            found.maps.insert(map);
            counts.insert(map, count);
        }
        Ok(counts)
    }

    fn rules(&mut self) -> Result<Rules, RequestError> {
        let mut all = Rules::new();
        for (chain, code) in self.side.rules(|chain, expressions| (chain.to_owned(), rules::read(expressions)))? {
            all.entry(chain).or_default().push(code);
        }
        Ok(all)
    }

    /// The elements of a map; `None` when one of them is none of ours.
    fn elements(
        &mut self,
        map: DirectMap,
        name: &str,
        count: Option<u32>,
    ) -> Result<Option<DirectElements>, RequestError> {
        let mut labels = BTreeSet::new();
        for attempt in 1.. {
            let (mut all, mut sound, mut listed) = (DirectElements::new(), true, 0);
            let (_, interrupted) = self.side.kernel.connection.dump(
                msg::GETSETELEM,
                NETDEV,
                |buf| {
                    attr::put_str(buf, elem::LIST_TABLE, TABLE_NAME);
                    attr::put_str(buf, elem::LIST_SET, name);
                },
                |message| {
                    for element in message.attrs.nested_of(elem::LIST_ELEMENTS).into_iter().flatten() {
                        listed += 1;
                        match read_element(map, element, &mut labels) {
                            Some(element) => drop(all.insert((map, element.key), element)),
                            None => sound = false,
                        }
                    }
                    Ok(())
                },
            )?;
            let complete = !interrupted && all.len() == listed && count.is_none_or(|count| count as usize == listed);
            if !sound || complete || attempt >= TRIES {
                return Ok(sound.then_some(all));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }
}

/// The index of an interface that is there; it belongs to the table then.
fn index(found: &mut DirectFound, device: &str) -> Option<u32> {
    let index = nix::net::if_::if_nametoindex(device).ok()?;
    found.table.devices.insert(index, device.into());
    Some(index)
}

fn as_declared(name: &str, attrs: &Attrs<'_>) -> bool {
    let device = name.strip_prefix("ingress-");
    match (device, attrs.nested_of(abi::chain::HOOK)) {
        (None, None) => true,
        (Some(device), Some(hook)) => {
            hook.u32_of(abi::chain::HOOK_NUM) == Some(INGRESS.0)
                && hook.u32_of(abi::chain::HOOK_PRIORITY) == Some(INGRESS.1 as u32)
                && hook.str_of(abi::chain::HOOK_DEV) == Some(device)
                && attrs.str_of(abi::chain::TYPE) == Some("filter")
                && attrs.u32_of(abi::chain::POLICY) == Some(abi::chain::POLICY_ACCEPT)
        }
        _ => false,
    }
}

fn read_element(map: DirectMap, element: Attr<'_>, labels: &mut BTreeSet<Arc<str>>) -> Option<DirectElement> {
    let attrs = element.nested();
    if attrs.u32_of(elem::FLAGS).unwrap_or(0) != 0 {
        return None;
    }
    let key = Bytes::from_slice(attrs.nested_of(elem::KEY)?.find_kind(abi::DATA_VALUE)?.value)?;
    let data = attrs.nested_of(elem::DATA)?;
    let value = match map {
        DirectMap::Frontends(_) => {
            let verdict = data.nested_of(abi::DATA_VERDICT)?;
            let is_goto = verdict.u32_of(abi::VERDICT_CODE)? == abi::verdict::GOTO;
            let chain = verdict.str_of(abi::VERDICT_CHAIN).filter(|_| is_goto)?;
            DirectValue::Forward(chain.parse().ok()?)
        }
        DirectMap::Nodes(family, _) => {
            DirectValue::Node(data.find_kind(abi::DATA_VALUE)?.ip().filter(|ip| Family::of(*ip) == family)?)
        }
    };
    let comment = attrs.find_kind(elem::USERDATA).and_then(|attr| read_comment(attr.value)).map(|text| {
        let known = labels.get(text).cloned();
        known.unwrap_or_else(|| {
            labels.insert(text.into());
            text.into()
        })
    });
    Some(DirectElement { key, value, comment })
}

/// Makes frontends of elements; what is left over is stray.
fn take_frontends(found: &mut DirectFound, elements: DirectElements) {
    let (entries, slots): (Vec<_>, Vec<_>) =
        elements.into_iter().partition(|((map, _), _)| matches!(map, DirectMap::Frontends(_)));
    let mut frontends: BTreeMap<At, (DirectFrontend, Vec<Option<Hop>>)> = BTreeMap::new();
    for ((map, key), element) in entries {
        let DirectValue::Forward(chain) = element.value else { continue };
        let label = element.comment.unwrap_or_default();
        let frontend = DirectFrontend { hash: chain.hash, label, slots: [].into() };
        frontends.insert((map.family(), key), (frontend, vec![None; chain.hash.modulus as usize]));
    }
    for ((map, key), element) in slots {
        let place = place(map, &element).and_then(|(at, slot, hop)| {
            let place = frontends.get_mut(&at)?.1.get_mut(slot)?;
            place.is_none().then_some((place, hop))
        });
        match place {
            Some((place, hop)) => *place = Some(hop),
            None => found.strays.push((map, DirectElement { key, ..element })),
        }
    }
    let finished =
        frontends.into_iter().map(|(at, (frontend, slots))| (at, DirectFrontend { slots: slots.into(), ..frontend }));
    found.table.frontends = finished.collect();
}

/// The frontend and slot that an element is about, and where it leads.
fn place(map: DirectMap, element: &DirectElement) -> Option<(At, usize, Hop)> {
    let (DirectMap::Nodes(family, device), DirectValue::Node(address)) = (map, element.value) else { return None };
    let at = element.key.as_slice().len().checked_sub(4)?;
    let (key, slot) = (Bytes::from_slice(&element.key.as_slice()[..at])?, element.key.u32_host_at(at)?);
    Some(((family, key), slot as usize, Hop { device, address }))
}

fn compare_rules(found: &mut DirectFound, rules: &Rules) {
    let is_there = |table: &DirectTable, chain: DirectChain, rule: DirectRule| {
        let code = rules::code(table, rule);
        rules.get(&table.chain_name(chain)).is_some_and(|list| list.iter().flatten().any(|other| *other == code))
    };
    for chain in found.chains.clone() {
        let DirectChain::Forward(forward) = chain else { continue };
        for device in found.table.devices.keys().copied().collect::<Vec<_>>() {
            if is_there(&found.table, chain, DirectRule::HandOn { chain: forward, device, strict: true }) {
                found.table.strict.insert(device);
            }
        }
    }
    let differs = |chain: &DirectChain| {
        let wanted: Vec<_> =
            found.table.rules(*chain).into_iter().map(|rule| Some(rules::code(&found.table, rule))).collect();
        rules.get(&found.table.chain_name(*chain)).map_or(&[][..], Vec::as_slice) != wanted
    };
    found.stale = found.chains.iter().copied().filter(differs).collect();
}
