//! A kernel that fails when told to.

use std::io;
use std::ops::Range;

use portway::model::Family;
use portway::ruleset::{
    Bytes, Element, Elements, EndpointMap, FakeKernel, Kernel, KernelError, Part, SetId, SetName, Table, Transaction,
    Value,
};

use super::history::{Tables, tables};
use support::canonical::with_first_names;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The kernel says no to a transaction, and this error to a question.
    Refuses(i32),
    /// What was asked never got there.
    NotSent(i32),
    /// It was done, but the answer is lost.
    AnswerLost,
    /// The answer makes no sense, as that of half a listing.
    Garbled,
    /// Another process owns the table.
    Owned,
}

impl Fault {
    pub(crate) const ALL: [Fault; 11] = [
        Fault::Refuses(libc::EBUSY),
        Fault::Refuses(libc::ENOMEM),
        Fault::Refuses(libc::EPERM),
        Fault::Refuses(libc::ENFILE),
        Fault::Refuses(libc::EEXIST),
        Fault::NotSent(libc::EINTR),
        Fault::NotSent(libc::ENOBUFS),
        Fault::NotSent(libc::ENOMEM),
        Fault::AnswerLost,
        Fault::Garbled,
        Fault::Owned,
    ];
}

/// A kernel in memory whose calls are counted and fail within a range of numbers. Keeps every state its tables have been in.
pub(crate) struct FaultyKernel {
    pub(crate) inner: FakeKernel,
    fault: Fault,
    faulty: Range<usize>,
    /// Calls so far.
    pub(crate) calls: usize,
    /// Those that deleted affinity records.
    pub(crate) forgotten: usize,
    /// The tables after each change, but for repetitions.
    pub(crate) states: Vec<Tables>,
}

impl FaultyKernel {
    /// Fails the calls with these numbers.
    pub(crate) fn new(fault: Fault, faulty: Range<usize>) -> Self {
        Self { inner: FakeKernel::new(), fault, faulty, calls: 0, forgotten: 0, states: Vec::new() }
    }

    /// Does what packets do: they leave an affinity record for every sticky frontend.
    pub(crate) fn pass_packets(&mut self) {
        for family in Family::ALL {
            let Some(listing) = self.inner.listing_mut(family) else { continue };
            let (in_force, mut records) = (with_first_names(listing), Vec::new());
            for map in EndpointMap::ALL {
                for (frontend, id) in &in_force.sets[&map.affinity_ids().into()] {
                    let Value::Data(id) = id.value else { panic!("{id:?} has no ID") };
                    let endpoints = in_force.sets[&map.set().into()].values();
                    for endpoint in endpoints.filter(|slot| slot.key.as_slice().starts_with(frontend.as_slice())) {
                        // One client for each endpoint.
                        let Value::Data(data) = &endpoint.value else { panic!("{endpoint:?} is no endpoint") };
                        let client = &data.as_slice()[..if family == Family::Ipv4 { 4 } else { 16 }];
                        let key = Bytes::from_slice(&[client, id.as_slice()].concat()).expect("short");
                        records.push(Element { key, comment: None, ..endpoint.clone() });
                    }
                }
            }
            let affinity = listing.sets.get_mut(&SetId::Affinity.into()).expect("all sets exist");
            affinity.extend(records.into_iter().map(|record| (record.key, record)));
        }
    }

    /// The fault of this call, if it has one.
    fn next(&mut self) -> Option<Fault> {
        let faulty = self.faulty.contains(&self.calls);
        self.calls += 1;
        faulty.then_some(self.fault)
    }

    fn change(&mut self, change: impl FnOnce(&mut FakeKernel) -> Result<(), KernelError>) -> Result<(), KernelError> {
        let fault = self.next();
        if let Some(fault @ (Fault::Refuses(_) | Fault::NotSent(_) | Fault::Owned)) = fault {
            return Err(error(fault));
        }
        let result = change(&mut self.inner);
        let now = tables(&self.inner);
        if self.states.last() != Some(&now) {
            self.states.push(now);
        }
        fault.map_or(result, |fault| Err(error(fault)))
    }

    fn look<T>(&mut self, look: impl FnOnce(&mut FakeKernel) -> Result<T, KernelError>) -> Result<T, KernelError> {
        match self.next() {
            Some(fault) => Err(error(fault)),
            None => look(&mut self.inner),
        }
    }
}

fn error(fault: Fault) -> KernelError {
    let doing = "being tested";
    let io = |errno| KernelError::Io { doing, source: io::Error::from_raw_os_error(errno) };
    match fault {
        Fault::Refuses(errno) => {
            let (object, reason) = ("the transaction".to_owned(), io::Error::from_raw_os_error(errno).to_string());
            KernelError::Refused { op: 0, element: None, object, reason, errno }
        }
        Fault::NotSent(errno) => io(errno),
        Fault::AnswerLost => io(libc::ENOBUFS),
        Fault::Garbled => KernelError::Garbled { doing, what: "half a message".to_owned() },
        Fault::Owned => KernelError::Owned { family: Family::Ipv4, owner: " (somebody, pid 1)".to_owned() },
    }
}

impl Kernel for FaultyKernel {
    fn claim(&mut self) -> Result<(), KernelError> {
        self.look(|kernel| kernel.claim())
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        self.change(|kernel| kernel.apply(transaction))
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        self.look(|kernel| kernel.settle())
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        self.look(|kernel| kernel.read(family))
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        self.look(|kernel| kernel.read_part(family, part))
    }

    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError> {
        self.look(|kernel| kernel.read_set(family, set))
    }

    fn guards(&mut self, _family: Family) -> bool {
        true
    }

    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        self.forgotten += 1;
        self.change(|kernel| kernel.forget(family, set, elements))
    }
}
