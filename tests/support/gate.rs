//! The real kernel behind something that looks at what passes, or changes it.

use portway::model::Family;
use portway::netlink::NftKernel;
use portway::ruleset::{Element, Elements, Kernel, KernelError, Part, SetId, SetName, Table, Transaction};

/// What stands in front of the kernel; by itself it lets everything pass.
pub(crate) trait Gate: Send {
    /// A transaction comes by.
    fn apply(&mut self, kernel: &mut NftKernel, transaction: &Transaction) -> Result<(), KernelError> {
        kernel.apply(transaction)
    }

    /// A whole table is read.
    fn reads_table(&mut self) {}

    /// A part of a table is read.
    fn reads_part(&mut self) {}
}

/// A kernel and its gate.
pub(crate) struct Gated<G> {
    pub(crate) kernel: NftKernel,
    pub(crate) gate: G,
}

impl<G: Gate> Kernel for Gated<G> {
    fn claim(&mut self) -> Result<(), KernelError> {
        self.kernel.claim()
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        self.gate.apply(&mut self.kernel, transaction)
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        self.gate.reads_table();
        self.kernel.read(family)
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        self.gate.reads_part();
        self.kernel.read_part(family, part)
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
