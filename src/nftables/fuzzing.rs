//! Answers and announcements of nf_tables.

use super::elements::ElementReader;
use super::watch::Announced;
use super::{connection, counters, read};
use crate::model::Family;
use crate::ruleset::{SetId, Table};
use crate::wire::attr::Attrs;
use crate::wire::message::messages;

/// Reads what may be answers to any of our questions; the first byte says how.
pub fn answers(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let family = if how & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 };
    let set = SetId::ALL[usize::from(how >> 1) % SetId::ALL.len()];
    let mut reader = ElementReader::new(family, set);
    let mut table = Table::default();
    // They may just as well be announcements.
    Announced::default().read(bytes);
    for (header, body) in messages(bytes) {
        connection::read_error(&header, body);
        let attrs = Attrs::new(body.get(4..).unwrap_or_default());
        read::objects::read_declaration(&attrs);
        if let Some((chain, Some(code))) =
            read::objects::read_rule(family, "portway", &connection::KernelMessage { attrs: attrs.clone() })
            && let Ok(chain) = chain.parse()
        {
            read::objects::is_as_declared(chain, &attrs);
            table.chains.entry(chain).or_default().push(code);
        }
        for element in attrs.nested_of(crate::wire::abi::elem::LIST_ELEMENTS).into_iter().flatten() {
            counters::counted(&element.nested());
        }
        if reader.message(&attrs).is_err() {
            return;
        }
    }
    table.sets.insert(set, reader.finish());
    // What was read is worked with: existing of the next start, listings, traces.
    crate::diff::ExistingLayout::of(&table);
    let (listing, _) = table.listing(family);
    crate::render::table(&listing);
}
