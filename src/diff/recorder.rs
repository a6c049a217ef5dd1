//! Collects element changes and puts them into the order the kernel wants.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Family;
use crate::plan::Member;
use crate::ruleset::{Element, Names, Op, SetId, Transaction};

/// Element changes of one family. Deletions take effect before additions, so an element can be replaced and a frontend
/// can move from one Service to another within one transaction, and a map is never fuller than before and after it.
#[derive(Debug, Default)]
pub(super) struct OpRecorder {
    added: BTreeMap<SetId, Vec<Element>>,
    deleted: BTreeMap<SetId, Vec<Element>>,
    counts: BTreeMap<SetId, isize>,
    only_counts: bool,
    /// Maps that have successors.
    growing: BTreeSet<SetId>,
    /// The next changes concern elements that the successors have.
    in_successors: bool,
    /// Changes of the successors.
    successors: Option<Box<OpRecorder>>,
}

impl OpRecorder {
    /// One that counts the changes and forgets them.
    pub(super) fn counting() -> Self {
        Self { only_counts: true, ..Self::default() }
    }

    /// One for a table with successors of these maps.
    pub(super) fn with_successors(growing: impl IntoIterator<Item = SetId>) -> Self {
        Self { growing: growing.into_iter().collect(), ..Self::default() }
    }

    /// Says whether the next changes concern elements that the successors have.
    pub(super) fn in_successors(&mut self, have: bool) {
        self.in_successors = have;
    }

    /// The recorder of the successor of a set, when the change concerns it.
    fn successor(&mut self, set: SetId) -> Option<&mut OpRecorder> {
        let concerned = self.in_successors && self.growing.contains(&set);
        concerned.then(|| &mut **self.successors.get_or_insert_default())
    }

    pub(super) fn add(&mut self, set: SetId, element: Element) {
        if let Some(successor) = self.successor(set) {
            successor.add(set, element.clone());
        }
        *self.counts.entry(set).or_default() += 1;
        if !self.only_counts {
            self.added.entry(set).or_default().push(element);
        }
    }

    pub(super) fn delete(&mut self, set: SetId, element: Element) {
        if let Some(successor) = self.successor(set) {
            successor.delete(set, element.clone());
        }
        *self.counts.entry(set).or_default() -= 1;
        if !self.only_counts {
            self.deleted.entry(set).or_default().push(element);
        }
    }

    /// Has the element that is wanted replace the one that is there, where they differ.
    pub(super) fn replace(&mut self, set: SetId, present: Option<Element>, wanted: Option<Element>) {
        if present != wanted {
            present.into_iter().for_each(|element| self.delete(set, element));
            wanted.into_iter().for_each(|element| self.add(set, element));
        }
    }

    pub(super) fn add_member(&mut self, member: Member) {
        self.add(member.set, member.element);
    }

    pub(super) fn delete_member(&mut self, member: Member) {
        self.delete(member.set, member.element);
    }

    /// By how much the number of elements changes.
    pub(super) fn counts(&self) -> &BTreeMap<SetId, isize> {
        &self.counts
    }

    /// Forgets the changes of a set.
    pub(super) fn forget(&mut self, set: SetId) {
        self.added.remove(&set);
        self.deleted.remove(&set);
    }

    /// Forgets the changes of successors, which are abandoned.
    pub(super) fn forget_successors(&mut self) {
        self.successors = None;
    }

    /// Appends the changes to a transaction.
    pub(super) fn finish(mut self, family: Family, names: &Names, transaction: &mut Transaction) {
        for (set, elements) in self.deleted {
            transaction.push(family, Op::DeleteElements(names.of(set), elements));
        }
        for (set, elements) in self.added {
            transaction.push(family, Op::AddElements(names.of(set), elements));
        }
        if let Some(successors) = self.successors.take() {
            let mut theirs = names.clone();
            self.growing.iter().for_each(|set| theirs.switch(*set));
            successors.finish(family, &theirs, transaction);
        }
    }
}
