//! The table `inet portway`: has the kernel forward established connections that were translated by way of a flow table, past
//! all hooks but the first. The tables of `ip` and `ip6` decide about connections as ever.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What nftables calls the family of the table.
pub const FAST_FAMILY: &str = "inet";
/// The name of the chain.
pub const FAST_CHAIN: &str = "forward";
/// Connections with more packets than this, both directions together, take the fast path (KEP-4963 has the same number):
/// for shorter ones an entry of a flow table costs more than it saves.
pub const FAST_AFTER_PACKETS: u64 = 20;
/// Behind all chains that filter (the last named priority is `security`, 50): what one of them drops is never taken over.
pub const FAST_PRIORITY: i32 = 100;

/// The rule.
pub fn fast_rule() -> String {
    format!("ct status dnat ct packets > {FAST_AFTER_PACKETS} flow add @portway")
}

/// The interfaces of the flow table: packets that come in there take the fast path.
pub type FastDevices = BTreeSet<Arc<str>>;

/// What the kernel holds of the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FastFound {
    /// There is a table.
    pub is_there: bool,
    /// It has flow table, chain and rule as Portway makes them, and nothing else.
    pub is_sound: bool,
    /// The interfaces of the flow table.
    pub devices: FastDevices,
}

impl FastFound {
    /// A table that Portway has made.
    pub fn made(devices: FastDevices) -> Self {
        Self { is_there: true, is_sound: true, devices }
    }

    /// What makes it the table with these interfaces.
    pub fn change_to(&self, wanted: &FastDevices) -> FastChange {
        if !self.is_sound {
            return FastChange { anew: true, added: wanted.iter().cloned().collect(), gone: Vec::new() };
        }
        let only = |one: &FastDevices, other: &FastDevices| one.difference(other).cloned().collect();
        FastChange { anew: false, added: only(wanted, &self.devices), gone: only(&self.devices, wanted) }
    }
}

/// Changes of the table, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FastChange {
    /// It is made anew, in the place of what there is.
    pub anew: bool,
    /// Interfaces that come.
    pub added: Vec<Arc<str>>,
    /// Interfaces that go.
    pub gone: Vec<Arc<str>>,
}

impl FastChange {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(names: &[&str]) -> FastDevices {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn only_what_differs_is_changed() {
        let found = FastFound::made(devices(&["cali1", "cali2", "eth0"]));
        assert!(found.change_to(&found.devices).is_empty());
        let change = found.change_to(&devices(&["cali2", "cali3", "eth0"]));
        let expected = FastChange { anew: false, added: vec!["cali3".into()], gone: vec!["cali1".into()] };
        assert_eq!(change, expected);
    }

    #[test]
    fn what_is_not_as_made_is_made_anew() {
        let odd = FastFound { is_sound: false, ..FastFound::made(devices(&["eth0", "gone0"])) };
        for found in [odd, FastFound::default()] {
            let expected = FastChange { anew: true, added: vec!["eth0".into()], gone: Vec::new() };
            assert_eq!(found.change_to(&devices(&["eth0"])), expected);
        }
        assert!(!FastFound::default().change_to(&devices(&[])).is_empty(), "there is a table to be made");
    }
}
