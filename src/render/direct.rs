//! The table `netdev portway` as text.

use super::{concat_text, type_text};
use crate::model::Family;
use crate::ruleset::{
    Bytes, DIRECT_FAMILY, DirectElement, DirectElements, DirectMap, DirectTable, DirectValue, ForwardChain, HASH_SEED,
    TABLE_NAME,
};

/// The chain that packets from an interface enter.
pub fn ingress_name(device: &str) -> String {
    format!("ingress-{device}")
}

/// The whole table, as `nft -s list table netdev portway` shows it but for one element a line; empty where there is none.
pub fn direct_table(table: &DirectTable) -> String {
    if table.is_empty() {
        return String::new();
    }
    let elements = table.elements();
    let maps = table.maps().into_iter().map(|map| map_text(table, map, &elements));
    let chains = table.chains().into_iter().map(|chain| forward_text(table, chain));
    let ingress = table.devices.values().map(|device| ingress_text(table, device));
    let blocks: Vec<String> = maps.chain(chains).chain(ingress).collect();
    format!("table {DIRECT_FAMILY} {TABLE_NAME} {{\n{}}}\n", blocks.join("\n"))
}

fn map_text(table: &DirectTable, map: DirectMap, elements: &DirectElements) -> String {
    let mut out = format!("\tmap {} {{\n\t\t{}\n", table.name(map), type_text(map.family(), &map.spec()));
    let of_map = elements.range((map, Bytes::new())..).take_while(|((other, _), _)| *other == map);
    let texts: Vec<String> = of_map.map(|(_, element)| element_text(map, element)).collect();
    if !texts.is_empty() {
        out += &format!("\t\telements = {{ {} }}\n", texts.join(",\n\t\t\t     "));
    }
    out + "\t}\n"
}

fn element_text(map: DirectMap, element: &DirectElement) -> String {
    let key = concat_text(map.family(), map.spec().key, &element.key);
    let comment = element.comment.as_ref().map(|text| format!(" comment \"{text}\"")).unwrap_or_default();
    let value = match element.value {
        DirectValue::Forward(chain) => format!("goto {chain}"),
        DirectValue::Node(ip) => ip.to_string(),
    };
    format!("{key}{comment} : {value}")
}

fn forward_text(table: &DirectTable, chain: ForwardChain) -> String {
    let mut out = format!("\tchain {chain} {{\n\t\tmeta pkttype != host return\n");
    if chain.family == Family::Ipv4 {
        out += "\t\tip frag-off & 16383 != 0 return\n";
    }
    for (index, device) in &table.devices {
        let (ip, map) = (chain.family.nft(), table.name(DirectMap::Nodes(chain.family, *index)));
        let port = if chain.hash.ports { " . th sport" } else { "" };
        out += &format!(
            "\t\tfwd {ip} to {} . jhash {ip} saddr{port} mod {} seed {HASH_SEED:#x} map @{map} device \"{device}\"\n",
            frontend_text(chain.family),
            chain.hash.modulus
        );
    }
    out + "\t}\n"
}

fn ingress_text(table: &DirectTable, device: &str) -> String {
    let mut out = format!(
        "\tchain {} {{\n\t\ttype filter hook ingress device \"{device}\" priority filter; policy accept;\n",
        ingress_name(device)
    );
    for family in table.families() {
        out += &format!("\t\t{} vmap @{}\n", frontend_text(family), table.name(DirectMap::Frontends(family)));
    }
    out + "\t}\n"
}

fn frontend_text(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip daddr . ip protocol . th dport",
        Family::Ipv6 => "ip6 daddr . ip6 nexthdr . th dport",
    }
}
