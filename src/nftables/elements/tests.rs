//! What is written is what is read, without a kernel between.

use std::time::Instant;

use proptest::collection::btree_map;
use proptest::prelude::*;

use super::*;
use crate::ffi::Scratch;
use crate::ruleset::{ChainId, EndpointMap, FieldType, Pick, PickBy, SetId, ValueType};
use crate::wire::attr::Attrs;
use crate::wire::message::PREFIX_LEN;

const SEQ: u32 = u32::MAX - 1;

fn written(family: Family, set: SetId, elements: &[Element]) -> Batch {
    let mut batch = Batch::new(SEQ, Scratch::new());
    write(&mut batch, 0, (family, "portway", set.into()), ElementAction::Add, elements);
    batch.finish(false);
    batch
}

/// Splits a batch into messages.
fn messages(batch: &Batch) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    for mut page in batch.pages() {
        while !page.is_empty() {
            let len = u32::from_ne_bytes(*page.first_chunk().expect("a head")) as usize;
            let (message, rest) = page.split_at(len);
            assert_eq!(len % 4, 0);
            messages.push(message);
            page = rest;
        }
    }
    messages
}

fn read(family: Family, set: SetId, batch: &Batch) -> HashMap<Bytes, Element> {
    let mut reader = ElementReader::new(family, set);
    for message in messages(batch) {
        reader.message(&Attrs::new(&message[PREFIX_LEN..])).expect("ours");
    }
    assert!(!reader.has_duplicates());
    reader.finish().values().map(|element| (element.key, element)).collect()
}

fn key(set: SetId, n: u32) -> Bytes {
    set.spec().key.iter().fold(Bytes::new(), |key, field| match field {
        FieldType::Address => key.ip(std::net::IpAddr::V4(n.into())),
        FieldType::Protocol => key.u8(n as u8),
        FieldType::Port => key.u16(n as u16),
        FieldType::Slot | FieldType::ClassId => key.u32_host(n),
    })
}

fn value(set: SetId, n: u32) -> Value {
    match set.spec().value {
        ValueType::None => Value::None,
        ValueType::Verdict => Value::Verdict(match n % 3 {
            0 => Verdict::Drop,
            1 => Verdict::Return,
            _ => Verdict::Goto(ChainId::Pick(Pick { map: EndpointMap::Address, by: PickBy::Sticky, count: n })),
        }),
        ValueType::Endpoint => Value::Data(Bytes::new().ip([10, 0, 0, n as u8].into()).u16(n as u16)),
        ValueType::Node => Value::Data(Bytes::new().ip([10, 1, 0, n as u8].into())),
        ValueType::ClassId => Value::Data(Bytes::new().u32_host(n)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn elements_read_back(
        set in prop::sample::select(&SetId::ALL[..]),
        content in btree_map(any::<u32>(), (any::<u32>(), prop::option::of("[a-zä/:-]{0,40}")), 0..1_500),
    ) {
        prop_assume!(!set.spec().interval);
        let elements: Vec<_> = content.into_iter().map(|(n, (data, comment))| Element {
            key: key(set, n),
            end: None,
            value: value(set, data),
            comment: comment.map(Into::into),
        }).collect();
        // Keys of small fields can be the same.
        let unique: HashMap<_, _> = elements.into_iter().map(|element| (element.key, element)).collect();
        let elements: Vec<_> = unique.values().cloned().collect();
        prop_assert_eq!(read(Family::Ipv4, set, &written(Family::Ipv4, set, &elements)), unique);
    }

    #[test]
    fn ranges_read_back(mut bounds in prop::collection::btree_set(any::<u32>(), 0..400), to_end in any::<bool>()) {
        if to_end {
            bounds.insert(u32::MAX);
        }
        let bounds: Vec<_> = bounds.into_iter().rev().collect();
        let ip = |n: u32| Bytes::new().ip(std::net::IpAddr::V4(n.into()));
        let elements: Vec<_> = bounds.chunks_exact(2).map(|pair| Element {
            key: ip(pair[1]),
            end: Some(ip(pair[0])),
            value: Value::None,
            comment: pair[0].is_multiple_of(2).then(|| "a".into()),
        }).collect();
        let batch = written(Family::Ipv4, SetId::ServiceCidrs, &elements);
        let want = elements.iter().map(|element| (element.key, element.clone())).collect();
        prop_assert_eq!(read(Family::Ipv4, SetId::ServiceCidrs, &batch), want);
    }
}

#[test]
fn an_offset_leads_to_its_element() {
    let set = SetId::ServiceCidrs;
    let elements: Vec<_> = (0..2_000)
        .map(|n| Element { key: key(set, 16 * n), end: Some(key(set, 16 * n + 7)), value: Value::None, comment: None })
        .collect();
    let batch = written(Family::Ipv4, set, &elements);
    let mut found = Vec::new();
    for (index, message) in messages(&batch).into_iter().enumerate() {
        let Some(origin) = batch.origin(SEQ.wrapping_add(index as u32)) else { continue };
        let list = Attrs::new(&message[PREFIX_LEN..]).find_kind(elem::LIST_ELEMENTS).expect("written");
        let start = PREFIX_LEN + list.offset + 4;
        found.extend(list.nested().map(|element| batch.element_at(origin, start + element.offset)));
        assert_eq!(batch.element_at(origin, start + 4), None);
    }
    let want: Vec<_> = (0..elements.len()).flat_map(|index| [Some(index), Some(index)]).collect();
    assert_eq!(found, want);
}

#[test]
fn many_elements_are_written_in_full_messages() {
    let set = SetId::Endpoints;
    let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let elements: Vec<_> = (0..count)
        .map(|n| Element {
            key: key(set, n),
            end: None,
            value: value(set, n),
            comment: Some("default/some-service:http".into()),
        })
        .collect();
    let start = Instant::now();
    let batch = written(Family::Ipv4, set, &elements);
    println!("{count} elements, {} bytes in {:?}", batch.len(), start.elapsed());
    let full = messages(&batch).len();
    assert!(full < count as usize / 500, "{full} messages");
    assert!(batch.pages().len() < 1024);
    let lens: Vec<_> = messages(&batch).iter().map(|message| message.len()).collect();
    assert!(lens.iter().all(|len| *len < 66_000));
    let seqs: Vec<_> =
        messages(&batch).iter().map(|head| u32::from_ne_bytes([head[8], head[9], head[10], head[11]])).collect();
    assert!(seqs.iter().enumerate().all(|(index, seq)| *seq == SEQ.wrapping_add(index as u32)));
}
