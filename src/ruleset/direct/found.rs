//! What there is of the table `netdev portway`, as far as it is known.

use std::collections::BTreeSet;

use super::{DirectChain, DirectElement, DirectMap, DirectTable};

/// A table in the kernel. The default stands for none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectFound {
    /// Whether there is one.
    pub is_there: bool,
    /// What it says, as far as that makes sense.
    pub table: DirectTable,
    /// Its maps.
    pub maps: BTreeSet<DirectMap>,
    /// Its chains.
    pub chains: BTreeSet<DirectChain>,
    /// Those chains whose rules are not what they should be for such a table.
    pub stale: BTreeSet<DirectChain>,
    /// Elements that belong to no frontend: a process ended in between.
    pub strays: Vec<(DirectMap, DirectElement)>,
    /// Chains of other names, and those of interfaces that are gone.
    pub other_chains: Vec<String>,
    /// Maps and sets of other names, and maps of interfaces that are gone.
    pub other_maps: Vec<String>,
    /// Why it cannot be made what it should be but from the beginning.
    pub broken: Option<String>,
}

impl DirectFound {
    /// A table that has just been made.
    pub fn made(table: DirectTable) -> Self {
        if table.is_empty() {
            return Self::default();
        }
        let (maps, chains) = (table.maps().into_iter().collect(), table.all_chains().into_iter().collect());
        Self { is_there: true, table, maps, chains, ..Self::default() }
    }

    /// What is not as Portway makes it, in words.
    pub fn oddities(&self) -> Vec<String> {
        let stale = self.stale.iter().map(|chain| format!("the rules of chain {}", self.table.chain_name(*chain)));
        let chains = self.other_chains.iter().map(|name| format!("chain {name}"));
        let maps = self.other_maps.iter().map(|name| format!("map {name}"));
        let strays = (!self.strays.is_empty()).then(|| format!("{} elements of no frontend", self.strays.len()));
        self.broken.iter().cloned().chain(stale).chain(chains).chain(maps).chain(strays).collect()
    }
}
