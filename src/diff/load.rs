//! Tables and maps that are filled in parts: before packets see them, or as soon as a table that was deleted is in force again.

use std::fmt;

use super::Steps;
use super::mirror::{FamilyMirror, Mirror};
use super::recorder::OpRecorder;
use crate::model::Family;
use crate::plan::Settings;
use crate::ruleset::{ChainId, Element, Op, SetId, Table, Transaction};
#[cfg(any(test, feature = "testing"))]
use crate::ruleset::{FakeKernel, Kernel as _};

/// The transactions that make a table, one after the other: chains without hooks and empty maps, then elements, then the
/// hooks. Or those that fill maps no rule uses yet. No packet sees it before it is complete, so others can have their turn
/// with nf_tables in between.
///
/// A table that was in force and is gone is missed at once: there the hooks come as soon as there are all verdicts, which are
/// few of the elements. Until a frontend has its endpoints, packets to it are dropped ([`crate::plan`], chains that pick one),
/// so what is for connections with an endpoint only has to be there before the endpoints: [`FamilyMirror::elements`] has that
/// order.
pub struct Load<'a> {
    mirror: &'a FamilyMirror,
    begin: Transaction,
    /// Before the hooks.
    elements: Box<dyn Iterator<Item = (SetId, Element)> + 'a>,
    hooks: Transaction,
    /// After the hooks.
    later: Box<dyn Iterator<Item = (SetId, Element)> + 'a>,
    /// Parts up to the hooks share a transaction where there is room: each transaction takes the kernel some time of its own.
    at_once: bool,
}

impl fmt::Debug for Load<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Load({:?}, {:?}, .., {:?}, ..)", self.mirror.family, self.begin, self.hooks)
    }
}

impl Mirror {
    /// How to make the table of a family of which the kernel holds this; `None` when the family is not served, or the
    /// kernel's table is in force and can only be changed as a whole ([`Mirror::rebase`]).
    pub fn load(&self, family: Family, kernel: Option<&Table>) -> Option<Load<'_>> {
        if kernel.is_some_and(Table::is_in_force) {
            return None;
        }
        let mirror = self.families.iter().find(|mirror| mirror.family == family)?;
        Some(Load::table(mirror, &self.settings, kernel.is_some()))
    }

    /// The same for a table that was in force until somebody deleted it: in force again as soon as it can be.
    pub fn reload(&self, family: Family, kernel: Option<&Table>) -> Option<Load<'_>> {
        let mut load = self.load(family, kernel)?;
        let mirror = load.mirror;
        load.elements = Box::new(mirror.elements_in(SetId::decides_first));
        load.later = Box::new(mirror.elements_in(|set| !set.decides_first()));
        load.at_once = true;
        Some(load)
    }

    /// How to fill the maps that the first of these steps has made.
    pub fn fill<'a>(&'a self, steps: &'a Steps) -> impl Iterator<Item = Load<'a>> {
        self.families.iter().filter_map(move |mirror| {
            let resized = move |set| steps.resized.contains(&(mirror.family, set));
            let elements = Box::new(mirror.elements_in(resized));
            let (begin, hooks, later) = (Transaction::default(), Transaction::default(), Box::new(std::iter::empty()));
            SetId::ALL.into_iter().any(resized).then_some(Load {
                mirror,
                begin,
                elements,
                hooks,
                later,
                at_once: false,
            })
        })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Mirror {
    /// Has a kernel in memory take these steps, as [`crate::programmer::Programmer`] would; maps are filled some elements at a time.
    pub fn commit_in(&self, kernel: &mut FakeKernel, steps: &Steps) {
        let mut apply = |part: &Transaction| kernel.apply(part).expect("the kernel takes it");
        apply(&steps.first);
        for mut load in self.fill(steps) {
            while let Some(part) = load.next(5) {
                apply(&part);
            }
        }
        [&steps.main, &steps.replaced, &steps.after].into_iter().for_each(apply);
    }
}

impl<'a> Load<'a> {
    /// Makes a table; with `replace` in the place of what is there.
    pub(super) fn table(mirror: &'a FamilyMirror, settings: &Settings, replace: bool) -> Self {
        let (family, mut begin, mut hooks) = (mirror.family, Transaction::default(), Transaction::default());
        if replace {
            begin.push(family, Op::DeleteTable);
        }
        begin.push(family, Op::AddTable);
        for set in mirror.sets() {
            begin.push(family, Op::AddSet(mirror.sizes.names().of(set), mirror.sizes.of(set)));
        }
        add_chains(mirror, settings, |chain| !chain.is_base(), &mut begin);
        add_chains(mirror, settings, ChainId::is_base, &mut hooks);
        let later = Box::new(std::iter::empty());
        Self { mirror, begin, elements: Box::new(mirror.elements()), hooks, later, at_once: false }
    }

    /// The next transaction, with at most this many elements; `None` when all is done.
    pub fn next(&mut self, max: usize) -> Option<Transaction> {
        let (mut part, mut room) = (std::mem::take(&mut self.begin), max.max(1));
        if part.is_empty() || self.at_once {
            part.extend(elements(self.mirror, &mut self.elements, &mut room));
        }
        if part.is_empty() || (self.at_once && room > 0) {
            part.extend(std::mem::take(&mut self.hooks));
        }
        if part.is_empty() {
            part = elements(self.mirror, &mut self.later, &mut room);
        }
        (!part.is_empty()).then_some(part)
    }

    /// All in one.
    pub(super) fn whole(mut self, main: &mut Transaction) {
        while let Some(part) = self.next(usize::MAX) {
            main.extend(part);
        }
    }
}

/// The next elements, as many as there is room for.
fn elements(
    mirror: &FamilyMirror,
    elements: &mut dyn Iterator<Item = (SetId, Element)>,
    room: &mut usize,
) -> Transaction {
    let (mut part, mut recorder) = (Transaction::default(), OpRecorder::default());
    for (set, element) in elements.take(*room) {
        *room -= 1;
        recorder.add(set, element);
    }
    recorder.finish(mirror.family, mirror.sizes.names(), &mut part);
    part
}

fn add_chains(mirror: &FamilyMirror, settings: &Settings, which: fn(ChainId) -> bool, part: &mut Transaction) {
    let chains: Vec<ChainId> = mirror.all_chains().into_iter().filter(|chain| which(*chain)).collect();
    for chain in &chains {
        part.push(mirror.family, Op::AddChain(*chain));
    }
    for chain in chains {
        mirror.add_rules(settings, chain, part);
    }
}
