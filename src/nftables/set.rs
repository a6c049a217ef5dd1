//! How a set is declared: type numbers, flags and the user data in which `nft` keeps the types for its listings.
//!
//! The user data is byte for byte what nft 1.0.6 writes. Newer versions write more, which makes 1.0.6 crash when it lists
//! the set; all of them understand the older form.

use std::sync::OnceLock;

use nftnl::nftnl_sys as sys;
use nix::sys::utsname::uname;

use crate::ffi::{Expression, Set};
use crate::model::Family;
use crate::ruleset::{FieldType, SetName, SetSpec, ValueType};
use crate::wire::abi::{expr as x, set as abi};

/// Milliseconds in a second: timeouts in the kernel's interface.
const MS: u64 = 1000;
/// Bits of one type in the number of a concatenation.
const TYPE_BITS: u32 = 6;

/// `nft`'s number of a type.
fn type_number(family: Family, field: FieldType) -> u32 {
    match (field, family) {
        (FieldType::Slot, _) => 4,
        (FieldType::Address, Family::Ipv4) => 7,
        (FieldType::Address, Family::Ipv6) => 8,
        (FieldType::Protocol, _) => 12,
        (FieldType::Port, _) => 13,
        (FieldType::ClassId, _) => 23,
    }
}

/// `nft`'s number of a concatenation.
fn concat_type(family: Family, fields: &[FieldType]) -> u32 {
    fields.iter().fold(0, |number, field| number << TYPE_BITS | type_number(family, *field))
}

fn padded_len(family: Family, fields: &[FieldType]) -> u32 {
    fields.iter().map(|field| field.padded_len(family)).sum::<usize>() as u32
}

/// The most fields the kernel divides a key into.
const MAX_PARTS: usize = 16;

/// The longest field that this kernel may compare in sets of ranges ([`SetSpec::parts`]).
fn longest_field() -> usize {
    static LONGEST: OnceLock<usize> = OnceLock::new();
    *LONGEST.get_or_init(|| uname().map_or(4, |name| longest_field_of(&name.release().to_string_lossy())))
}

/// From 6.16 on a whole IPv6 address, where each client that connects has fewer elements to look at. Older kernels may have
/// been mended, but their versions do not tell: they get what is right on all.
fn longest_field_of(release: &str) -> usize {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) >= (Some(6), Some(16)) { 16 } else { 4 }
}

/// Lengths of fields with zeros behind them.
pub(super) fn padded(parts: &[u8]) -> [u8; MAX_PARTS] {
    std::array::from_fn(|index| parts.get(index).copied().unwrap_or(0))
}

/// What a set is, in the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_len: u32,
    /// Type and length of the values of a data map.
    pub(super) data: Option<(u32, u32)>,
    pub(super) verdict: bool,
    pub(super) size: u32,
    /// Default timeout of elements in milliseconds; 0 for none.
    pub(super) timeout: u64,
    pub(super) counter: bool,
    /// [`SetSpec::parts`], and zeros behind them.
    pub(super) parts: [u8; MAX_PARTS],
}

impl Declaration {
    pub(super) fn of(family: Family, spec: &SetSpec) -> Self {
        let mut flags = 0;
        if spec.interval {
            flags |= abi::F_INTERVAL;
            if spec.key.len() > 1 {
                flags |= abi::F_CONCAT;
            }
        }
        if spec.value != ValueType::None {
            flags |= abi::F_MAP;
        }
        if spec.timeout_seconds.is_some() {
            flags |= abi::F_TIMEOUT;
        }
        if spec.dynamic {
            flags |= abi::F_TIMEOUT | abi::F_EVAL;
        }
        let values = spec.value_fields();
        Self {
            flags,
            key_type: concat_type(family, spec.key),
            key_len: padded_len(family, spec.key),
            data: (!values.is_empty()).then(|| (concat_type(family, values), padded_len(family, values))),
            verdict: spec.value == ValueType::Verdict,
            size: spec.size.unwrap_or(0),
            timeout: u64::from(spec.timeout_seconds.unwrap_or(0)) * MS,
            counter: spec.counter,
            parts: padded(&spec.parts(family, longest_field())),
        }
    }
}

/// The set as libnftnl wants it, with room for `size` elements where its declaration leaves that open (0: no limit); `id`
/// tells apart the sets of one transaction.
pub(super) fn object(family: Family, table: &str, name: SetName, size: u32, id: u32) -> Set {
    declared(family, (table, &name.to_string()), &name.set.spec(), size, id)
}

/// The same for a set of any name.
pub(super) fn declared(family: Family, (table, name): (&str, &str), spec: &SetSpec, size: u32, id: u32) -> Set {
    let declared = Declaration::of(family, spec);
    let mut out = Set::new()
        .str(sys::NFTNL_SET_TABLE, table)
        .str(sys::NFTNL_SET_NAME, name)
        .u32(sys::NFTNL_SET_ID, id)
        .u32(sys::NFTNL_SET_FLAGS, declared.flags)
        .u32(sys::NFTNL_SET_KEY_TYPE, declared.key_type)
        .u32(sys::NFTNL_SET_KEY_LEN, declared.key_len);
    if let Some((data_type, len)) = declared.data {
        out = out.u32(sys::NFTNL_SET_DATA_TYPE, data_type).u32(sys::NFTNL_SET_DATA_LEN, len);
    }
    if declared.verdict {
        out = out.u32(sys::NFTNL_SET_DATA_TYPE, abi::VERDICT_TYPE).u32(sys::NFTNL_SET_DATA_LEN, 0);
    }
    let size = spec.size.unwrap_or(size);
    if size > 0 {
        out = out.u32(sys::NFTNL_SET_DESC_SIZE, size);
    }
    if declared.timeout > 0 {
        out = out.u64(sys::NFTNL_SET_TIMEOUT, declared.timeout);
    }
    let parts = spec.parts(family, longest_field());
    if !parts.is_empty() {
        out = out.concat_lens(&parts);
    }
    if declared.counter {
        out = out.add(Expression::new(c"counter"));
    }
    out.userdata(&userdata(family, spec))
}

/// Tags in `nft`'s user data of a set.
mod tag {
    pub(super) const KEY_BYTE_ORDER: u8 = 0;
    pub(super) const DATA_BYTE_ORDER: u8 = 1;
    pub(super) const KEY_TYPEOF: u8 = 3;
    pub(super) const DATA_TYPEOF: u8 = 4;
    pub(super) const DATA_INTERVAL: u8 = 6;
    /// Inside a typeof: the kind of expression, and what it needs to be built again.
    pub(super) const EXPR: u8 = 0;
    pub(super) const DETAILS: u8 = 1;
}

/// Kinds of expression in `nft`'s user data.
mod kind {
    pub(super) const PAYLOAD: u32 = 7;
    pub(super) const META: u32 = 9;
    pub(super) const CONCAT: u32 = 13;
    pub(super) const NUMGEN: u32 = 23;
}

/// Byte orders in `nft`'s user data.
mod order {
    pub(super) const MIXED: u32 = 0;
    pub(super) const HOST: u32 = 1;
    pub(super) const BIG_ENDIAN: u32 = 2;
}

/// The user data of nft 1.0.6 for the set.
fn userdata(family: Family, spec: &SetSpec) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    if spec.key.len() == 1 {
        put_u32(&mut out, tag::KEY_BYTE_ORDER, order::BIG_ENDIAN);
        return out;
    }
    let is_map = spec.value != ValueType::None;
    put_u32(&mut out, tag::KEY_BYTE_ORDER, order::MIXED);
    if is_map {
        let order = match spec.value {
            ValueType::ClassId => order::HOST,
            ValueType::Node => order::BIG_ENDIAN,
            // Newer versions abort on a verdict with any other.
            _ => order::MIXED,
        };
        put_u32(&mut out, tag::DATA_BYTE_ORDER, order);
    }
    // Only a key with a numgen slot has no name in nft's language and must be spelled out.
    let spelled_out = spec.key.contains(&FieldType::Slot);
    put(&mut out, tag::KEY_TYPEOF, &concat(family, if spelled_out { spec.key } else { &[] }));
    if spec.value == ValueType::Node {
        put(&mut out, tag::DATA_TYPEOF, &typeof_field(family, FieldType::Address));
    }
    if spec.value == ValueType::Endpoint {
        put(&mut out, tag::DATA_TYPEOF, &concat(family, if spelled_out { spec.value_fields() } else { &[] }));
    }
    if is_map {
        put_u32(&mut out, tag::DATA_INTERVAL, 0);
    }
    out
}

fn concat(family: Family, fields: &[FieldType]) -> Vec<u8> {
    let mut parts = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        put(&mut parts, index as u8, &typeof_field(family, *field));
    }
    typeof_expr(kind::CONCAT, &parts)
}

/// `ip daddr`, `meta l4proto`, `th dport` and `numgen random mod 2`. The modulus says nothing about the type.
fn typeof_field(family: Family, field: FieldType) -> Vec<u8> {
    // Numbers of protocols and their fields within `nft`.
    const PROTO_TH: u32 = 11;
    const TH_DPORT: u32 = 2;
    let (kind, details): (u32, &[u32]) = match (field, family) {
        (FieldType::Address, Family::Ipv4) => (kind::PAYLOAD, &[12, 12]),
        (FieldType::Address, Family::Ipv6) => (kind::PAYLOAD, &[13, 9]),
        (FieldType::Port, _) => (kind::PAYLOAD, &[PROTO_TH, TH_DPORT]),
        (FieldType::Protocol, _) => (kind::META, &[x::META_L4PROTO]),
        (FieldType::Slot, _) => (kind::NUMGEN, &[x::NG_RANDOM, 2, 0]),
        (FieldType::ClassId, _) => (kind::META, &[x::META_PRIORITY]),
    };
    let mut out = Vec::new();
    for (index, value) in details.iter().enumerate() {
        put_u32(&mut out, index as u8, *value);
    }
    typeof_expr(kind, &out)
}

fn typeof_expr(kind: u32, details: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, tag::EXPR, kind);
    put(&mut out, tag::DETAILS, details);
    out
}

/// An entry of user data: tag, length, bytes.
fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    // The longest entry is the 0x60 bytes of a key with four fields.
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}

fn put_u32(out: &mut Vec<u8>, tag: u8, value: u32) {
    put(out, tag, &value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::SetId;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As dumped from nft 1.0.6 (`--debug=mnl`) on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn notes_are_those_of_nft_1_0_6() {
        let notes = |family, set: SetId| hex(&userdata(family, &set.spec()));
        assert_eq!(notes(Family::Ipv4, SetId::ClusterIps), "000402000000");
        assert_eq!(notes(Family::Ipv4, SetId::Hairpin), "000400000000030800040d0000000100");
        assert_eq!(notes(Family::Ipv4, SetId::Services), "000400000000010400000000030800040d0000000100060400000000");
        assert_eq!(
            notes(Family::Ipv6, SetId::Affinity),
            "000400000000010400000000030800040d0000000100040800040d0000000100060400000000"
        );
        assert_eq!(notes(Family::Ipv4, SetId::AffinityIds), "000400000000010401000000030800040d0000000100060400000000");
        assert_eq!(
            notes(Family::Ipv4, SetId::Endpoints),
            "0004000000000104000000000360\
             00040d00000001580014000407000000010c00040c00000001040c000000010e0004090000000106000410000000\
             0214000407000000010c00040b0000000104020000000\
             31a0004170000000112000401000000010402000000020400000000\
             043400040d000000012c0014000407000000010c00040c00000001040c000000\
             0114000407000000010c00040b000000010402000000060400000000"
        );
        assert_eq!(
            notes(Family::Ipv6, SetId::NodeportEndpoints),
            "000400000000010400000000034a\
             00040d0000000142000e0004090000000106000410000000\
             0114000407000000010c00040b000000010402000000\
             021a0004170000000112000401000000010402000000020400000000\
             043400040d000000012c0014000407000000010c00040d000000010409000000\
             0114000407000000010c00040b000000010402000000060400000000"
        );
    }

    #[test]
    fn types_are_numbered_as_nft_does() {
        let of = |family, set: SetId| Declaration::of(family, &set.spec());
        assert_eq!(of(Family::Ipv4, SetId::Services).key_type, 0x730d);
        assert_eq!(of(Family::Ipv4, SetId::Endpoints).key_type, 0x1c_c344);
        assert_eq!(of(Family::Ipv4, SetId::Endpoints).data, Some((0x1cd, 8)));
        assert_eq!(of(Family::Ipv6, SetId::Affinity).key_type, 0x8317);
        assert_eq!(of(Family::Ipv4, SetId::NodeportAffinityIds).data, Some((0x17, 4)));
        assert_eq!(of(Family::Ipv6, SetId::Affinity).flags, 0x38);
        assert_eq!(of(Family::Ipv6, SetId::AllowedSources).flags, 0x84);
        assert_eq!(of(Family::Ipv6, SetId::ServiceCidrs).flags, 0x4);
    }

    /// Linux 5.10 to 6.15 with AVX2 do not compare the sixth byte of a field of 16 bytes.
    #[test]
    fn kernels_that_may_be_at_fault_compare_short_fields() {
        let of = |family, set: SetId, release| set.spec().parts(family, longest_field_of(release));
        for release in
            ["5.10.0-32-cloud-amd64", "5.14.0-570.el9.x86_64", "6.1.170", "6.15.3", "6.9-rc1", "5.99", "?", ""]
        {
            assert_eq!(of(Family::Ipv4, SetId::AllowedSources, release), [4, 1, 2, 4]);
            assert_eq!(of(Family::Ipv6, SetId::AllowedSources, release), [4, 4, 4, 4, 1, 2, 4, 4, 4, 4]);
            assert_eq!(of(Family::Ipv6, SetId::NodeportAllowedSources, release), [1, 2, 4, 4, 4, 4]);
        }
        for release in ["6.16.0", "6.18.0+deb14-amd64", "6.100", "7.2.13+deb14-cloud-amd64", "10.0"] {
            assert_eq!(of(Family::Ipv4, SetId::AllowedSources, release), [4, 1, 2, 4]);
            assert_eq!(of(Family::Ipv6, SetId::AllowedSources, release), [16, 1, 2, 16]);
        }
        assert!(of(Family::Ipv6, SetId::ServiceCidrs, "5.10").is_empty());
        assert!(of(Family::Ipv6, SetId::Services, "5.10").is_empty());
    }
}
