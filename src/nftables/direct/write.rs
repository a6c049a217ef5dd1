//! Writing a transaction about the table `netdev portway`.

use nftnl::nftnl_sys as sys;

use super::{NETDEV, rules};
use crate::diff::{DirectGrowth, DirectShrinkage, DirectSlice};
use crate::ffi::{Chain, Head, Rule};
use crate::nftables::side::Writer;
use crate::nftables::{elements, set};
use crate::ruleset::{Bytes, DirectChain, DirectElement, DirectMap, DirectTable, DirectValue};
use crate::wire::abi::{self, elem, msg};
use crate::wire::attr;

/// `NF_NETDEV_INGRESS`, and the priority `filter`.
pub(super) const INGRESS: (u32, i32) = (0, 0);
/// Bytes of a list of elements, and more than the longest element takes.
const LIST_MAX: usize = u16::MAX as usize;
const ELEMENT_MAX: usize = 512;

impl Writer {
    /// Declarations and rules, in a table that is there.
    pub(super) fn growth(&mut self, table: &DirectTable, growth: &DirectGrowth) {
        growth.maps.iter().for_each(|map| self.map(table, *map));
        growth.chains.iter().for_each(|chain| self.chain(table, *chain));
        growth.rewritten.iter().for_each(|chain| self.delete_rules(&table.chain_name(*chain)));
        for chain in growth.chains.iter().chain(&growth.rewritten) {
            self.rules(table, *chain);
        }
    }

    /// What is not needed any more. Rules name maps, and elements of maps name chains.
    pub(super) fn shrinkage(&mut self, shrinkage: &DirectShrinkage) {
        shrinkage.chains.iter().for_each(|chain| self.delete_rules(chain));
        for map in &shrinkage.maps {
            self.named(format!("map {map}"), msg::DELSET, &[(abi::set::TABLE, self.name), (abi::set::NAME, map)]);
        }
        for chain in &shrinkage.chains {
            self.named(
                format!("chain {chain}"),
                msg::DELCHAIN,
                &[(abi::chain::TABLE, self.name), (abi::chain::NAME, chain)],
            );
        }
    }

    fn delete_rules(&mut self, chain: &str) {
        let what = format!("the rules of chain {chain}");
        self.named(what, msg::DELRULE, &[(abi::rule::TABLE, self.name), (abi::rule::CHAIN, chain)]);
    }

    fn named(&mut self, what: String, kind: u16, names: &[(u16, &str)]) {
        self.request(what, kind, 0, |buf| names.iter().for_each(|(kind, name)| attr::put_str(buf, *kind, name)));
    }

    fn map(&mut self, table: &DirectTable, map: DirectMap) {
        let name = table.name(map);
        let index = self.about(format!("map {name}"));
        let object = set::declared(map.family(), (self.name, &name), &map.spec(), 0, index as u32 + 1);
        let head = head(msg::NEWSET, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
    }

    fn chain(&mut self, table: &DirectTable, chain: DirectChain) {
        let name = table.chain_name(chain);
        let index = self.about(format!("chain {name}"));
        let mut object = Chain::new().str(sys::NFTNL_CHAIN_TABLE, self.name).str(sys::NFTNL_CHAIN_NAME, &name);
        if let DirectChain::Ingress(device) = chain {
            object = object
                .str(sys::NFTNL_CHAIN_TYPE, "filter")
                .u32(sys::NFTNL_CHAIN_HOOKNUM, INGRESS.0)
                .i32(sys::NFTNL_CHAIN_PRIO, INGRESS.1)
                .str(sys::NFTNL_CHAIN_DEV, table.devices.get(&device).map_or("", |name| name))
                .u32(sys::NFTNL_CHAIN_POLICY, abi::chain::POLICY_ACCEPT);
        }
        let head = head(msg::NEWCHAIN, libc::NLM_F_CREATE);
        self.batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
    }

    fn rules(&mut self, table: &DirectTable, chain: DirectChain) {
        let name = table.chain_name(chain);
        for rule in table.rules(chain) {
            let index = self.about(format!("a rule of chain {name}"));
            let mut object = Rule::new()
                .u32(sys::NFTNL_RULE_FAMILY, u32::from(NETDEV))
                .str(sys::NFTNL_RULE_TABLE, self.name)
                .str(sys::NFTNL_RULE_CHAIN, &name);
            rules::write(&mut object, &rules::code(table, rule));
            let head = head(msg::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
            self.batch.object(index, head, |scratch, head, out| object.build(scratch, head, out));
        }
    }

    /// `tables` are that which has been, and that which is to be: they know the names of maps.
    pub(super) fn slice(&mut self, tables: [&DirectTable; 2], slice: &DirectSlice) {
        self.elements(tables[0], msg::DELSETELEM, &slice.gone());
        self.elements(tables[1], msg::NEWSETELEM, &slice.added());
    }

    fn elements(&mut self, table: &DirectTable, kind: u16, elements: &[(DirectMap, &DirectElement)]) {
        let flags = if kind == msg::NEWSETELEM { libc::NLM_F_CREATE as u16 } else { 0 };
        for list in elements.chunk_by(|(map, _), (other, _)| map == other) {
            let Some((map, _)) = list.first() else { continue };
            let name = table.name(*map);
            let index = self.about(format!("an element of map {name}"));
            let (mut done, table_name) = (0, self.name);
            while done < list.len() {
                done += self.batch.request((index, done), (kind, NETDEV, flags), |buf| {
                    attr::put_str(buf, elem::LIST_TABLE, table_name);
                    attr::put_str(buf, elem::LIST_SET, &name);
                    let nest = attr::begin_nest(buf, elem::LIST_ELEMENTS);
                    let mut written = 0;
                    for (_, element) in &list[done..] {
                        if buf.len() - nest + ELEMENT_MAX > LIST_MAX {
                            break;
                        }
                        put_element(buf, element, kind == msg::NEWSETELEM);
                        written += 1;
                    }
                    attr::end_nest(buf, nest);
                    written
                });
            }
        }
    }
}

fn head(kind: u16, flags: i32) -> Head {
    Head { kind, family: NETDEV, flags: flags as u16, seq: 0 }
}

fn put_element(buf: &mut Vec<u8>, element: &DirectElement, adding: bool) {
    let nest = attr::begin_nest(buf, abi::LIST_ELEM);
    elements::put_data(buf, elem::KEY, &element.key);
    if adding {
        match element.value {
            DirectValue::Node(ip) => elements::put_data(buf, elem::DATA, &Bytes::new().ip(ip)),
            DirectValue::Forward(chain) => {
                let data = attr::begin_nest(buf, elem::DATA);
                let verdict = attr::begin_nest(buf, abi::DATA_VERDICT);
                attr::put_u32(buf, abi::VERDICT_CODE, abi::verdict::GOTO);
                attr::put_str(buf, abi::VERDICT_CHAIN, &chain.to_string());
                attr::end_nest(buf, verdict);
                attr::end_nest(buf, data);
            }
        }
        elements::put_userdata(buf, element.comment.as_deref(), false);
    }
    attr::end_nest(buf, nest);
}
