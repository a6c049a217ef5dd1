//! Compares the part of a table that others touched with what the kernel holds.

use std::collections::BTreeMap;

use super::Steps;
use super::change::Change;
use super::mirror::{FamilyMirror, Mirror};
use super::owners::LastSlots;
use super::shared::SharedElement;
use super::slots;
use crate::model::Family;
use crate::plan::{FrontendKey, Member};
use crate::ruleset::{Bytes, ChangedParts, Element, Foreign, ForeignKind, Keys, Op, Part, SetId, Table, Transaction};

impl Mirror {
    /// The transactions that repair a part of the kernel's table of a family: as [`Mirror::rebase`], from a table of
    /// which only this part has been read. Objects that are not ours are deleted last, once nothing refers to them.
    /// `None` when only a comparison of the whole table can repair it.
    pub fn repair_part(&self, family: Family, part: &Part, table: Table) -> Option<Steps> {
        let mirror = self.families.iter().find(|mirror| mirror.family == family)?;
        let mut steps = Steps::default();
        delete_foreign(family, &table.foreign, &mut steps)?;
        let mut change = Change::default();
        if part.structure {
            if mirror.leftovers(&table).next().is_some() || table.names != *mirror.sizes.names() {
                return None;
            }
            mirror.compare_chains(&self.settings, &table, &mut change);
            mirror.delete_surplus(&change, &mut steps);
            mirror.compare_sets(&table, &mut change);
        }
        mirror.compare_part(part, table, &mut change)?;
        mirror.write(&self.settings, change, &mut steps);
        Some(steps)
    }
}

impl Mirror {
    /// The parts of the tables that changes concern; sets go by the names they have now.
    pub fn concerned(&self, changes: &Transaction) -> BTreeMap<Family, Part> {
        let mut touched = ChangedParts::default();
        for (family, op) in &changes.ops {
            let mirror = self.families.iter().find(|mirror| mirror.family == *family);
            match (op, mirror) {
                (Op::AddElements(name, list) | Op::DeleteElements(name, list), Some(mirror)) => {
                    let keys = list.iter().map(|element| element.key).collect();
                    touched.elements(*family, mirror.sizes.names().of(name.set), Keys::These(keys));
                }
                _ => touched.structure(*family),
            }
        }
        match touched {
            ChangedParts::Parts(parts) => parts,
            ChangedParts::Everything => BTreeMap::new(),
        }
    }
}

/// Has the objects that are not ours deleted. `None` when something is wrong that is no such object.
fn delete_foreign(family: Family, foreign: &[Foreign], steps: &mut Steps) -> Option<()> {
    let mut objects: Vec<(ForeignKind, &String)> = Vec::new();
    for foreign in foreign {
        match foreign {
            Foreign::Object(kind, name) => objects.push((*kind, name)),
            // Its chain is written anew.
            Foreign::Rule { .. } => {}
            Foreign::Other(_) => return None,
        }
    }
    objects.sort_unstable();
    for (kind, name) in objects {
        if kind == ForeignKind::Chain {
            steps.main.push(family, Op::FlushForeign(name.clone()));
        }
        steps.after.push(family, Op::DeleteForeign(kind, name.clone()));
    }
    Some(())
}

impl FamilyMirror {
    /// `None` when a map was touched that is not in force.
    fn compare_part(&self, part: &Part, mut table: Table, change: &mut Change) -> Option<()> {
        for (name, keys) in &part.sets {
            let set = name.set;
            if *name != self.sizes.names().of(set) {
                return None;
            }
            let Keys::These(keys) = keys else { continue };
            let found = table.sets.remove(&set).unwrap_or_default();
            // The keys of a frontend stand together.
            let mut last = LastSlots::default();
            for key in keys {
                change.elements.replace(set, found.get(key), self.element(set, key, &mut last));
            }
        }
        // Those that were read whole are left.
        if !table.sets.is_empty() {
            self.compare_elements(&table.sets, &mut change.elements);
        }
        Some(())
    }

    /// The element with a key.
    fn element<'a>(&'a self, set: SetId, key: &Bytes, last: &mut LastSlots<'a>) -> Option<Element> {
        if let Some(shared) = SharedElement::at(self.family, set, key) {
            return self.shared.contains(&shared).then(|| shared.member().element);
        }
        if set == SetId::Gone {
            let target = slots::target(key).filter(|target| self.gone.contains(target));
            return target.map(|target| Member::gone(target).element);
        }
        let mut globals = self.globals.iter().filter(|member| member.set == set);
        if let Some(global) = globals.find(|member| member.element.key == *key) {
            return Some(global.element.clone());
        }
        let frontend = key.as_slice().get(..set.spec().frontend_len(self.family)?)?;
        let frontend = FrontendKey::from_bytes(&Bytes::from_slice(frontend)?)?;
        let service = self.services.get(&self.claims.winner(frontend)?.service)?;
        service.frontends.iter().find(|own| own.key == frontend)?.element(set, key, last)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::Options;
    use crate::model::Model;
    use crate::ruleset::{ChainId, encode_rule};

    /// A mirror without Services, and its chains.
    fn mirror() -> (Mirror, Table) {
        let model = Model::default();
        let (mirror, _) = Mirror::build(Options::new("node").settings(&model), &model);
        let listing = mirror.listing(Family::Ipv4).expect("served");
        let code = |rules: Vec<_>| rules.iter().map(|rule| encode_rule(Family::Ipv4, rule)).collect();
        let chains = listing.chains.into_iter().map(|(chain, rules)| (chain, code(rules))).collect();
        (mirror, Table { chains, ..Table::default() })
    }

    fn structure() -> Part {
        Part { structure: true, ..Part::default() }
    }

    #[test]
    fn what_is_foreign_is_disarmed_and_then_deleted() {
        let (mirror, mut table) = mirror();
        assert!(mirror.repair_part(Family::Ipv4, &structure(), table.clone()).expect("nothing strange").is_empty());
        let object = |kind| Foreign::Object(kind, "theirs".to_owned());
        table.foreign = vec![
            object(ForeignKind::Stateful(1)),
            object(ForeignKind::Chain),
            Foreign::Rule { chain: ChainId::Refuse, number: 2 },
            object(ForeignKind::Set),
        ];
        let steps = mirror.repair_part(Family::Ipv4, &structure(), table).expect("objects and a rule");
        let (flush, rest) = steps.main.ops.split_first().expect("something");
        assert_eq!(*flush, (Family::Ipv4, Op::FlushForeign("theirs".to_owned())));
        assert_eq!(rest[0], (Family::Ipv4, Op::FlushChain(ChainId::Refuse)));
        assert!(rest[1..].iter().all(|(_, op)| matches!(op, Op::AddRule(ChainId::Refuse, _))) && rest.len() > 1);
        let kinds = [ForeignKind::Set, ForeignKind::Chain, ForeignKind::Stateful(1)];
        let deleted = kinds.map(|kind| (Family::Ipv4, Op::DeleteForeign(kind, "theirs".to_owned())));
        assert_eq!(steps.after.ops, deleted);
    }

    #[test]
    fn what_is_unclear_takes_a_whole_comparison() {
        let (mirror, mut table) = mirror();
        table.foreign = vec![Foreign::Other("chain output".to_owned())];
        assert!(mirror.repair_part(Family::Ipv4, &structure(), table).is_none());
    }
}
