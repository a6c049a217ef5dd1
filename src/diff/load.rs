//! A table made from nothing, in parts.

use std::fmt;

use super::mirror::{FamilyMirror, Mirror};
use super::rebase::is_in_force;
use super::recorder::Recorder;
use crate::model::Family;
use crate::plan::Settings;
use crate::ruleset::{ChainId, Element, Op, SetId, Table, Transaction};

/// The transactions that make a table, one after the other: chains without hooks and empty maps, then elements, then the
/// hooks. No packet sees it before it is complete, so others can have their turn with nf_tables in between.
pub struct Load<'a> {
    mirror: &'a FamilyMirror,
    settings: &'a Settings,
    elements: Box<dyn Iterator<Item = (SetId, Element)> + 'a>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is there, or only what an earlier load left unfinished.
    Begin {
        replace: bool,
    },
    Elements,
    End,
}

impl fmt::Debug for Load<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Load({:?}, {:?})", self.mirror.family, self.stage)
    }
}

impl Mirror {
    /// How to make the table of a family of which the kernel holds this; `None` when the family is not served, or the
    /// kernel's table is in force and can only be changed as a whole ([`Mirror::rebase`]).
    pub fn load(&self, family: Family, kernel: Option<&Table>) -> Option<Load<'_>> {
        if kernel.is_some_and(is_in_force) {
            return None;
        }
        let mirror = self.families.iter().find(|mirror| mirror.family == family)?;
        Some(Load::new(mirror, &self.settings, kernel.is_some()))
    }
}

impl<'a> Load<'a> {
    pub(super) fn new(mirror: &'a FamilyMirror, settings: &'a Settings, replace: bool) -> Self {
        Self { mirror, settings, elements: Box::new(mirror.elements()), stage: Stage::Begin { replace } }
    }

    /// The next transaction, with at most this many elements; `None` when the table is complete.
    pub fn next(&mut self, max: usize) -> Option<Transaction> {
        let mut part = Transaction::default();
        if let Stage::Begin { replace } = self.stage {
            self.begin(replace, &mut part);
            self.stage = Stage::Elements;
        } else if self.stage == Stage::Elements {
            let mut recorder = Recorder::default();
            self.elements.by_ref().take(max.max(1)).for_each(|(set, element)| recorder.add(set, element));
            recorder.finish(self.mirror.family, &mut part);
            if part.is_empty() {
                self.add_chains(ChainId::is_base, &mut part);
                self.stage = Stage::End;
            }
        }
        (!part.is_empty()).then_some(part)
    }

    /// All in one.
    pub(super) fn whole(mut self, main: &mut Transaction) {
        while let Some(part) = self.next(usize::MAX) {
            main.extend(part);
        }
    }

    fn begin(&self, replace: bool, part: &mut Transaction) {
        let family = self.mirror.family;
        if replace {
            part.push(family, Op::DeleteTable);
        }
        part.push(family, Op::AddTable);
        for set in SetId::ALL {
            part.push(family, Op::AddSet(set, self.mirror.sizes.of(set)));
        }
        self.add_chains(|chain| !chain.is_base(), part);
    }

    fn add_chains(&self, which: fn(ChainId) -> bool, part: &mut Transaction) {
        let chains: Vec<ChainId> = self.mirror.all_chains().into_iter().filter(|chain| which(*chain)).collect();
        for chain in &chains {
            part.push(self.mirror.family, Op::AddChain(*chain));
        }
        for chain in chains {
            self.mirror.add_rules(self.settings, chain, part);
        }
    }
}
