//! The table `netdev portway` as text.

use super::{concat_text, one_line, type_text};
use crate::model::Family;
use crate::ruleset::{
    Bytes, DIRECT_FAMILY, DirectChain, DirectElement, DirectElements, DirectMap, DirectRule, DirectTable, DirectValue,
    HASH_SEED, TABLE_NAME,
};

/// The whole table, as `nft -s list table netdev portway` shows it but for one element a line; empty where there is none.
pub fn direct_table(table: &DirectTable) -> String {
    if table.is_empty() {
        return String::new();
    }
    let elements = table.elements();
    let maps = table.maps().into_iter().map(|map| map_text(table, map, &elements));
    let chains = table.all_chains().into_iter().map(|chain| chain_text(table, chain));
    let blocks: Vec<String> = maps.chain(chains).collect();
    format!("table {DIRECT_FAMILY} {TABLE_NAME} {{\n{}}}\n", blocks.join("\n"))
}

/// The command that declares a map.
pub fn make_direct_map(table: &DirectTable, map: DirectMap) -> String {
    format!("add {}", one_line(&map_text(table, map, &DirectElements::new()), &format!("{DIRECT_FAMILY} {TABLE_NAME}")))
}

/// The command that declares a chain.
pub fn make_direct_chain(table: &DirectTable, chain: DirectChain) -> String {
    format!("add {}", one_line(&(chain_head(table, chain) + "\t}\n"), &format!("{DIRECT_FAMILY} {TABLE_NAME}")))
}

fn map_text(table: &DirectTable, map: DirectMap, elements: &DirectElements) -> String {
    let mut out = format!("\tmap {} {{\n\t\t{}\n", table.name(map), type_text(map.family(), &map.spec()));
    let of_map = elements.range((map, Bytes::new())..).take_while(|((other, _), _)| *other == map);
    let texts: Vec<String> = of_map.map(|(_, element)| direct_element_text(map, element)).collect();
    if !texts.is_empty() {
        out += &format!("\t\telements = {{ {} }}\n", texts.join(",\n\t\t\t     "));
    }
    out + "\t}\n"
}

/// An element as `nft` writes it, without its map.
pub fn direct_element_text(map: DirectMap, element: &DirectElement) -> String {
    let key = concat_text(map.family(), map.spec().key, &element.key);
    let comment = element.comment.as_ref().map(|text| format!(" comment \"{text}\"")).unwrap_or_default();
    let value = match element.value {
        DirectValue::Forward(chain) => format!("goto {chain}"),
        DirectValue::Node(ip) => ip.to_string(),
    };
    format!("{key}{comment} : {value}")
}

fn chain_text(table: &DirectTable, chain: DirectChain) -> String {
    let mut out = chain_head(table, chain);
    for rule in table.rules(chain) {
        out += &format!("\t\t{}\n", direct_rule_text(table, rule));
    }
    out + "\t}\n"
}

/// The beginning of a chain, with its hook.
fn chain_head(table: &DirectTable, chain: DirectChain) -> String {
    let mut out = format!("\tchain {} {{\n", table.chain_name(chain));
    if let DirectChain::Ingress(device) = chain {
        let device = table.devices.get(&device).map_or("", |name| name);
        out += &format!("\t\ttype filter hook ingress device \"{device}\" priority filter; policy accept;\n");
    }
    out
}

/// A rule as `nft` writes it.
pub fn direct_rule_text(table: &DirectTable, rule: DirectRule) -> String {
    match rule {
        DirectRule::Leave(family) => {
            format!("{} vmap @{}", frontend_text(family), table.name(DirectMap::Frontends(family)))
        }
        DirectRule::SkipOthers => "meta pkttype != host return".to_owned(),
        DirectRule::SkipFragments => "ip frag-off & 16383 != 0 return".to_owned(),
        DirectRule::HandOn { chain, device, strict } => {
            let (ip, map) = (chain.family.nft(), table.name(DirectMap::Nodes(chain.family, device)));
            let port = if chain.hash.ports { " . th sport" } else { "" };
            let device = table.devices.get(&device).map_or("", |name| name);
            let condition = if strict { format!("fib saddr oif \"{device}\" ") } else { String::new() };
            format!(
                "{condition}fwd {ip} to {} . jhash {ip} saddr{port} mod {} seed {HASH_SEED:#x} map @{map} device \"{device}\"",
                frontend_text(chain.family),
                chain.hash.modulus
            )
        }
    }
}

fn frontend_text(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip daddr . ip protocol . th dport",
        Family::Ipv6 => "ip6 daddr . ip6 nexthdr . th dport",
    }
}
