//! Prints a table as `nft list table` would, stateless (`nft -s`), with one element a line.

mod direct;
mod fast;

use crate::model::{Family, Protocol};
use crate::ruleset::{
    BaseHook, Bytes, ChainId, Element, Field, FieldType, HASH_SEED, Listing, Op, Rule, SetId, SetName, SetSpec,
    TABLE_NAME, Term, Transaction, Value, ValueType, Verdict,
};

pub use direct::{direct_element_text, direct_rule_text, direct_table, make_direct_chain, make_direct_map};
pub use fast::{fast_commands, fast_table};

/// The whole table; text that `nft -f` (1.0.7 or newer) loads.
pub fn table(listing: &Listing) -> String {
    let mut out = format!("table {} {TABLE_NAME} {{\n", listing.family.nft());
    for (index, (name, elements)) in listing.sets.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let elements: Vec<&Element> = elements.values().collect();
        out.push_str(&declaration(listing.family, *name, listing.sizes.get(name).copied(), &elements));
    }
    for (chain, rules) in &listing.chains {
        out.push('\n');
        out.push_str(&chain_text(listing.family, *chain, rules));
    }
    out.push_str("}\n");
    out
}

/// A transaction as commands of nft, one element each.
pub fn commands(transaction: &Transaction) -> Vec<String> {
    let mut out = Vec::with_capacity(transaction.ops.len());
    for (family, op) in &transaction.ops {
        let table = format!("{} {TABLE_NAME}", family.nft());
        let mut elements = |verb: &str, name: &SetName, list: &[Element]| {
            let text = |element| element_text(*family, name.set, element);
            out.extend(list.iter().map(|element| format!("{verb} element {table} {name} {{ {} }}", text(element))));
        };
        match op {
            Op::AddElements(set, list) => elements("add", set, list),
            Op::DeleteElements(set, list) => elements("delete", set, list),
            Op::AddTable => out.push(format!("add table {table}")),
            Op::DeleteTable => out.push(format!("delete table {table}")),
            Op::AddSet(set, size) => {
                let size = (*size > 0).then_some(*size);
                out.push(format!("add {}", one_line(&declaration(*family, *set, size, &[]), &table)));
            }
            Op::DeleteSet(name) => out.push(format!("delete {} {table} {name}", kind(name.set))),
            Op::AddChain(chain) => out.push(format!("add {}", one_line(&chain_text(*family, *chain, &[]), &table))),
            Op::DeleteChain(chain) => out.push(format!("delete chain {table} {chain}")),
            Op::FlushChain(chain) => out.push(format!("flush chain {table} {chain}")),
            // A command of nft needs the rules' handles.
            Op::KeepRules { chain, kept, of } => out.push(format!(
                "# delete all rules of chain {table} {chain} but {} to {} of {of}",
                kept.start + 1,
                kept.end
            )),
            Op::AddRule(chain, rule) => out.push(format!("add rule {table} {chain} {}", rule_text(*family, rule))),
            Op::FlushForeign(chain) => out.push(format!("flush chain {table} {chain}")),
            Op::DeleteForeign(kind, name) => out.push(format!("delete {kind} {table} {name}")),
        }
    }
    out
}

/// A block of a listing as one line, with the table before the object's name.
fn one_line(block: &str, table: &str) -> String {
    let mut lines = block.lines().map(str::trim);
    let head = lines.next().unwrap_or_default();
    let (kind, rest) = head.split_once(' ').unwrap_or((head, ""));
    let end = |line: &str| if line == "}" || line.ends_with(';') { "" } else { ";" };
    let body: String = lines.map(|line| format!(" {line}{}", end(line))).collect();
    format!("{kind} {table} {rest}{body}")
}

/// `set` or `map`.
pub fn kind(set: SetId) -> &'static str {
    if set.spec().value == ValueType::None { "set" } else { "map" }
}

fn declaration(family: Family, name: SetName, size: Option<u32>, elements: &[&Element]) -> String {
    let (set, spec) = (name.set, name.set.spec());
    let mut out = format!("\t{} {name} {{\n", kind(set));
    out.push_str(&format!("\t\t{}\n", type_text(family, &spec)));
    if let Some(size) = spec.size.or(size) {
        out.push_str(&format!("\t\tsize {size}\n"));
    }
    if spec.interval {
        out.push_str("\t\tflags interval\n");
    }
    if spec.dynamic {
        out.push_str("\t\tflags dynamic,timeout\n");
    }
    if let Some(seconds) = spec.timeout_seconds {
        out.push_str(&format!("\t\tflags timeout\n\t\ttimeout {}\n", duration_text(seconds)));
    }
    if spec.counter {
        out.push_str("\t\tcounter\n");
    }
    for (index, element) in elements.iter().enumerate() {
        let start = if index == 0 { "\t\telements = { " } else { ",\n\t\t\t     " };
        out.push_str(&format!("{start}{}", element_text(family, set, element)));
    }
    if !elements.is_empty() {
        out.push_str(" }\n");
    }
    out.push_str("\t}\n");
    out
}

/// `type ...`, or `typeof ...` where a key holds a numgen slot, which has no named type. `meta l4proto` stands for the type
/// alone: rules of IPv4 say `ip protocol`.
fn type_text(family: Family, spec: &SetSpec) -> String {
    let typeof_form = spec.key.contains(&FieldType::Slot);
    let name = |field: &FieldType| match (field, typeof_form) {
        (FieldType::Address, false) if family == Family::Ipv4 => "ipv4_addr".to_owned(),
        (FieldType::Address, false) => "ipv6_addr".to_owned(),
        (FieldType::Address, true) => format!("{} daddr", family.nft()),
        (FieldType::Protocol, false) => "inet_proto".to_owned(),
        (FieldType::Protocol, true) => "meta l4proto".to_owned(),
        (FieldType::Port, false) => "inet_service".to_owned(),
        (FieldType::Port, true) => "th dport".to_owned(),
        (FieldType::Slot, _) => "numgen random mod 2".to_owned(),
        (FieldType::ClassId, false) => "classid".to_owned(),
        (FieldType::ClassId, true) => "meta priority".to_owned(),
    };
    let join = |fields: &[FieldType]| fields.iter().map(name).collect::<Vec<_>>().join(" . ");
    let keyword = if typeof_form { "typeof" } else { "type" };
    match spec.value {
        ValueType::None => format!("{keyword} {}", join(spec.key)),
        ValueType::Verdict => format!("{keyword} {} : verdict", join(spec.key)),
        ValueType::Endpoint | ValueType::ClassId | ValueType::Node => {
            format!("{keyword} {} : {}", join(spec.key), join(spec.value_fields()))
        }
    }
}

/// An element as `nft` writes it, without its set: `10.96.0.1 . tcp . 443 comment "default/kubernetes:https" : goto pick-1`.
pub fn element_text(family: Family, set: SetId, element: &Element) -> String {
    let spec = set.spec();
    let mut out = key_text(family, set, element);
    if let Some(comment) = &element.comment {
        out.push_str(&format!(" comment \"{comment}\""));
    }
    match &element.value {
        Value::None => {}
        Value::Verdict(verdict) => {
            out.push_str(&format!(" : {}", verdict_text(*verdict)));
        }
        Value::Data(data) => {
            out.push_str(&format!(" : {}", concat_text(family, spec.value_fields(), data)));
        }
    }
    out
}

/// The key of an element, a range where it is one.
pub fn key_text(family: Family, set: SetId, element: &Element) -> String {
    let fields = set.spec().key;
    match &element.end {
        Some(end) => range_text(family, fields, &element.key, end),
        None => concat_text(family, fields, &element.key),
    }
}

/// A concatenation in words: `10.96.0.1 . tcp . 443`.
pub fn concat_text(family: Family, fields: &[FieldType], bytes: &Bytes) -> String {
    let mut at = 0;
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        parts.push(field_text(family, *field, bytes, at));
        at += field.padded_len(family);
    }
    parts.join(" . ")
}

fn field_text(family: Family, field: FieldType, bytes: &Bytes, at: usize) -> String {
    let text = match (field, family) {
        (FieldType::Address, Family::Ipv4) => bytes.ipv4_at(at).map(|ip| ip.to_string()),
        (FieldType::Address, Family::Ipv6) => bytes.ipv6_at(at).map(|ip| ip.to_string()),
        (FieldType::Protocol, _) => bytes.u8_at(at).map(|number| match Protocol::from_number(number) {
            Some(protocol) => protocol.nft().to_owned(),
            None => number.to_string(),
        }),
        (FieldType::Port, _) => bytes.u16_at(at).map(|port| port.to_string()),
        (FieldType::Slot, _) => bytes.u32_host_at(at).map(|slot| slot.to_string()),
        (FieldType::ClassId, _) => bytes.u32_host_at(at).map(|id| format!("{:x}:{:x}", id >> 16, id & 0xffff)),
    };
    text.unwrap_or_else(|| "?".to_owned())
}

/// Ranges are networks, and written so.
fn range_text(family: Family, fields: &[FieldType], first: &Bytes, last: &Bytes) -> String {
    let mut at = 0;
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        let (low, high) = (field_text(family, *field, first, at), field_text(family, *field, last, at));
        parts.push(match (low == high, field) {
            (true, _) => low,
            (false, FieldType::Address) => match prefix_len(family, first, last, at) {
                Some(len) => format!("{low}/{len}"),
                None => format!("{low}-{high}"),
            },
            (false, _) => format!("{low}-{high}"),
        });
        at += field.padded_len(family);
    }
    parts.join(" . ")
}

fn prefix_len(family: Family, first: &Bytes, last: &Bytes, at: usize) -> Option<u32> {
    let number = |bytes: &Bytes| {
        let octets = bytes.as_slice().get(at..at + family.address_len())?;
        Some(octets.iter().fold(0_u128, |sum, octet| sum << 8 | u128::from(*octet)))
    };
    let bits = 8 * family.address_len() as u32;
    let (low, high) = (number(first)?, number(last)?);
    let host_bits = 128 - (low ^ high).leading_zeros();
    let mask = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit - 1);
    (low & mask == 0 && high & mask == mask).then(|| bits - host_bits)
}

fn chain_text(family: Family, chain: ChainId, rules: &[Rule]) -> String {
    let mut out = format!("\tchain {chain} {{\n");
    if let Some(base) = chain.base() {
        let BaseHook { kind, name, priority_name, .. } = base;
        out.push_str(&format!("\t\ttype {kind} hook {name} priority {priority_name}; policy accept;\n"));
    }
    for rule in rules {
        out.push_str(&format!("\t\t{}\n", rule_text(family, rule)));
    }
    out.push_str("\t}\n");
    out
}

/// A rule as `nft` writes it.
pub fn rule_text(family: Family, rule: &Rule) -> String {
    rule.iter().map(|term| term_text(family, term)).collect::<Vec<_>>().join(" ")
}

fn term_text(family: Family, term: &Term) -> String {
    let not = |negate: bool| if negate { "!= " } else { "" };
    let key = |fields: &[Field]| fields.iter().map(|f| packet_field(family, *f)).collect::<Vec<_>>().join(" . ");
    match term {
        Term::Prefix { field, negate, net } => {
            let value = match net.prefix_len() == net.max_prefix_len() {
                true => net.addr().to_string(),
                false => net.to_string(),
            };
            format!("{} {}{value}", packet_field(family, *field), not(*negate))
        }
        Term::Interface { negate, name, prefix } => {
            format!("iifname {}\"{name}{}\"", not(*negate), if *prefix { "*" } else { "" })
        }
        Term::Arrived { negate } => format!("iif {}0", not(!negate)),
        Term::Member { key: fields, negate, set } => {
            format!("{} {}@{}", key(fields), not(*negate), set)
        }
        Term::Local { field, negate } => {
            let side = if *field == Field::SourceAddress { "saddr" } else { "daddr" };
            format!("fib {side} type {}local", not(*negate))
        }
        Term::Translated => "ct status dnat".to_owned(),
        Term::NoReset => "tcp flags ! rst".to_owned(),
        Term::NoSyn => "tcp flags ! syn".to_owned(),
        Term::EchoRequest if family == Family::Ipv4 => "icmp type echo-request".to_owned(),
        Term::EchoRequest => "icmpv6 type echo-request".to_owned(),
        Term::TranslateTo(ip) => format!("dnat to {ip}"),
        Term::Verdict(verdict) => verdict_text(*verdict),
        Term::VerdictMap { key: fields, map } => {
            format!("{} vmap @{}", key(fields), map)
        }
        Term::Translate { key: fields, map } => {
            format!("dnat {} to {} map @{}", family.nft(), key(fields), map)
        }
        Term::SetPriority { key: fields, map } => {
            format!("meta priority set {} map @{}", key(fields), map)
        }
        Term::ClearPriority => "meta priority set none".to_owned(),
        Term::Masquerade => "masquerade fully-random".to_owned(),
        Term::Reject => "reject".to_owned(),
        Term::RejectWithReset => "reject with tcp reset".to_owned(),
        Term::Update { map, key: fields, timeout_seconds, value } => format!(
            "update @{} {{ {} timeout {} : {} }}",
            map,
            key(fields),
            duration_text(*timeout_seconds),
            key(value)
        ),
    }
}

fn packet_field(family: Family, field: Field) -> String {
    match field {
        Field::SourceAddress => format!("{} saddr", family.nft()),
        Field::DestinationAddress => format!("{} daddr", family.nft()),
        Field::Protocol if family == Family::Ipv4 => "ip protocol".to_owned(),
        Field::Protocol => "meta l4proto".to_owned(),
        Field::DestinationPort => "th dport".to_owned(),
        Field::OriginalAddress => format!("ct original {} daddr", family.nft()),
        Field::OriginalPort => "ct original proto-dst".to_owned(),
        Field::ReplyAddress => format!("ct reply {} saddr", family.nft()),
        Field::ReplyPort => "ct reply proto-src".to_owned(),
        Field::Priority => "meta priority".to_owned(),
        Field::RandomSlot(modulus) => format!("numgen random mod {modulus}"),
        Field::HashedSlot { with_port, modulus } => {
            let port = if with_port { " . th sport" } else { "" };
            format!("jhash {} saddr{port} mod {modulus} seed {HASH_SEED:#x}", family.nft())
        }
    }
}

fn verdict_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

/// nft's spelling: `3h`, `1m30s`.
fn duration_text(seconds: u32) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}
