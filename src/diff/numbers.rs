//! Numbers of Service ports with session affinity, of which the IDs of their records are made.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::affinity;
use crate::plan::{Affinity, Frontend, PortKey};
use crate::ruleset::{Bytes, EndpointMap, SetId, Table};

/// The numbers in use in a family.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    used: HashSet<u32>,
    /// Where to look for a free one. It only grows, so that no Service port gets the records of one that was just
    /// deleted.
    next: u32,
}

impl Numbers {
    /// None in use yet; new ones begin behind those of an existing table.
    pub(super) fn after(existing: Option<&ExistingNumbers>) -> Self {
        Self { used: HashSet::new(), next: existing.map_or(0, |existing| existing.next) }
    }

    /// Numbers the frontends of a Service that have session affinity: as before, else as in an existing table, else anew.
    /// Numbers no longer in use become free.
    pub(super) fn assign(&mut self, old: &[Frontend], new: &mut [Frontend], existing: Option<&ExistingNumbers>) {
        let mut existing_numbers = HashMap::new();
        for frontend in new.iter().filter(|frontend| frontend.affinity.is_some()) {
            if let Some(number_before) = existing.and_then(|existing| existing.get(frontend)) {
                existing_numbers.entry(frontend.port_key()).or_insert(number_before);
            }
        }
        let mut known: HashMap<PortKey, u32> =
            old.iter().rev().filter_map(|frontend| number(frontend).map(|it| (frontend.port_key(), it))).collect();
        for frontend in new.iter_mut() {
            if frontend.affinity.is_none() {
                continue;
            }
            let port = frontend.port_key();
            let number_before = existing_numbers.get(&port).copied();
            let number = *known.entry(port).or_insert_with(|| self.take(number_before));
            frontend.affinity = frontend.affinity.map(|affinity| Affinity { number, ..affinity });
        }
        let kept: HashSet<u32> = new.iter().filter_map(number).collect();
        for gone in old.iter().filter_map(number).filter(|number| !kept.contains(number)) {
            self.used.remove(&gone);
        }
    }

    fn take(&mut self, number_before: Option<u32>) -> u32 {
        if let Some(number_before) = number_before
            && self.used.insert(number_before)
        {
            return number_before;
        }
        // There are more numbers than Service ports by far.
        loop {
            let number = self.next;
            self.next = (number + 1) % Affinity::NUMBERS;
            if self.used.insert(number) {
                return number;
            }
        }
    }
}

fn number(frontend: &Frontend) -> Option<u32> {
    Some(frontend.affinity?.number)
}

/// The numbers in a table read back from the kernel, so that records outlive a restart.
#[derive(Debug, Default)]
pub(super) struct ExistingNumbers {
    /// By frontend, with the comment that names its Service port.
    numbers: HashMap<Bytes, (u32, Option<Arc<str>>)>,
    /// Behind the highest number in the table, also behind those of records that nobody refers to.
    next: u32,
}

impl ExistingNumbers {
    /// Collects the numbers of a table.
    pub(super) fn of(table: &Table) -> Self {
        let elements = |set: SetId| table.sets.get(&set).into_iter().flat_map(|elements| elements.values());
        let mut numbers = HashMap::new();
        for element in EndpointMap::ALL.into_iter().flat_map(|map| elements(map.affinity_ids())) {
            if let Some(number) = affinity::id_of(&element).and_then(Affinity::number_of) {
                numbers.insert(element.key, (number, element.comment.clone()));
            }
        }
        let recorded = elements(SetId::Affinity).filter_map(|record| affinity::parse(&record));
        let highest = numbers
            .values()
            .map(|(number, _)| *number)
            .chain(recorded.filter_map(|(id, _)| Affinity::number_of(id)))
            .max();
        let next = highest.map_or(0, |number| (number + 1) % Affinity::NUMBERS);
        Self { numbers, next }
    }

    /// The number of a frontend, if it belonged to the same Service port then.
    fn get(&self, frontend: &Frontend) -> Option<u32> {
        let (number, owner) = self.numbers.get(&frontend.key.bytes())?;
        (owner.as_ref() == Some(&frontend.label)).then_some(*number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::plan::{Action, Class, EndpointSet, FrontendKey, Member, SpareSlots, Target};

    fn sticky(service: &str, port: u16) -> Frontend {
        let target = Target { ip: [10, 0, 0, 1].into(), port: 80 };
        Frontend {
            key: FrontendKey::NodePort { protocol: Protocol::Tcp, port },
            class: Class::NodePort,
            port: "http".into(),
            label: format!("ns/{service}:http").into(),
            action: Action::Balance(EndpointSet::Cluster, vec![target]),
            affinity: Some(Affinity { seconds: 60, number: 0 }),
            spread: None,
            spare: SpareSlots::default(),
            direct: false,
            sources: None,
        }
    }

    fn assign(
        numbers: &mut Numbers,
        old: &[Frontend],
        new: &[Frontend],
        existing: Option<&ExistingNumbers>,
    ) -> Vec<Frontend> {
        let mut new = new.to_vec();
        numbers.assign(old, &mut new, existing);
        new
    }

    fn table(frontends: &[Frontend]) -> Table {
        let mut table = Table::default();
        for Member { set, element } in frontends.iter().flat_map(Frontend::members) {
            table.sets.entry(set).or_default().insert(element);
        }
        table
    }

    #[test]
    fn frontends_of_a_port_share_a_number_that_others_never_inherit() {
        let mut numbers = Numbers::default();
        let first = assign(&mut numbers, &[], &[sticky("a", 1), sticky("a", 2)], None);
        assert_eq!(first.iter().filter_map(number).collect::<Vec<_>>(), [0, 0]);
        let second = assign(&mut numbers, &[], &[sticky("b", 3)], None);
        assert_eq!(number(&second[0]), Some(1));
        let fewer = assign(&mut numbers, &first, &[sticky("a", 2)], None);
        assert_eq!(number(&fewer[0]), Some(0), "as before");
        assert!(assign(&mut numbers, &fewer, &[], None).is_empty());
        assert_eq!(numbers.used, HashSet::from_iter([1]));
        let third = assign(&mut numbers, &[], &[sticky("c", 4)], None);
        assert_eq!(number(&third[0]), Some(2), "not the one that just became free");
    }

    #[test]
    fn switched_off_and_on_again_it_is_another_number() {
        let mut numbers = Numbers::default();
        let on = assign(&mut numbers, &[], &[sticky("a", 1)], None);
        let off = assign(&mut numbers, &on, &[Frontend { affinity: None, ..sticky("a", 1) }], None);
        let again = assign(&mut numbers, &off, &[sticky("a", 1)], None);
        assert_eq!((number(&on[0]), number(&again[0])), (Some(0), Some(1)));
    }

    #[test]
    fn an_existing_number_counts_for_its_port_alone() {
        let mut numbers = Numbers { next: 7, ..Numbers::default() };
        let before = assign(&mut numbers, &[], &[sticky("a", 1), sticky("a", 2)], None);
        let existing = ExistingNumbers::of(&table(&before));
        let mut numbers = Numbers::after(Some(&existing));
        let taken_over = assign(&mut numbers, &[], &[sticky("b", 1)], Some(&existing));
        assert_eq!(number(&taken_over[0]), Some(8), "the port belongs to another Service now");
        let kept = assign(&mut numbers, &[], &[sticky("a", 3), sticky("a", 2)], Some(&existing));
        assert_eq!(kept.iter().filter_map(number).collect::<Vec<_>>(), [7, 7], "one frontend remembers for all");
    }

    #[test]
    fn numbers_of_forgotten_records_are_not_given_away() {
        let mut table = Table::default();
        let id = Affinity { seconds: 60, number: 41 }.id(EndpointSet::Local);
        let key = Bytes::new().ip([172, 16, 0, 1].into()).u8(6).u32_host(id);
        let value = crate::ruleset::Value::Data(Bytes::new().ip([10, 0, 0, 1].into()).u16(80));
        let record = crate::ruleset::Element { key, end: None, value, comment: None };
        table.sets.entry(SetId::Affinity).or_default().insert(record);
        let mut numbers = Numbers::after(Some(&ExistingNumbers::of(&table)));
        assert_eq!(number(&assign(&mut numbers, &[], &[sticky("a", 1)], None)[0]), Some(42));
    }

    #[test]
    fn behind_the_last_number_comes_the_first_free_one() {
        let mut numbers = Numbers { used: HashSet::from_iter([0, 1]), next: Affinity::NUMBERS - 1 };
        assert_eq!([numbers.take(None), numbers.take(None)], [Affinity::NUMBERS - 1, 2]);
    }
}
