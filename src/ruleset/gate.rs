//! A kernel behind something that looks at what passes, or changes it: metrics, and what tests need.

use super::{Element, Elements, Kernel, KernelError, Part, SetId, SetName, Table, Transaction};
use crate::model::Family;

/// What stands in front of a kernel; by itself it lets everything pass. See [`Kernel`] for what the methods promise.
pub trait Gate<K: Kernel>: Send {
    /// A transaction comes by.
    fn apply(&mut self, kernel: &mut K, transaction: &Transaction) -> Result<(), KernelError> {
        kernel.apply(transaction)
    }

    /// A whole table is to be read.
    fn read(&mut self, kernel: &mut K, family: Family) -> Result<Option<Table>, KernelError> {
        kernel.read(family)
    }

    /// A part of a table is to be read.
    fn read_part(&mut self, kernel: &mut K, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        kernel.read_part(family, part)
    }
}

/// A kernel and its gate.
#[derive(Debug)]
pub struct Gated<K, G> {
    /// The kernel.
    pub kernel: K,
    /// What stands in front of it.
    pub gate: G,
}

impl<K: Kernel, G: Gate<K>> Kernel for Gated<K, G> {
    fn claim(&mut self) -> Result<(), KernelError> {
        self.kernel.claim()
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        self.gate.apply(&mut self.kernel, transaction)
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        self.gate.read(&mut self.kernel, family)
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        self.gate.read_part(&mut self.kernel, family, part)
    }

    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError> {
        self.kernel.read_set(family, set)
    }

    fn guards(&mut self, family: Family) -> bool {
        self.kernel.guards(family)
    }

    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        self.kernel.forget(family, set, elements)
    }
}
