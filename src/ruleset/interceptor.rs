//! Code in front of a kernel that observes or changes calls: for metrics and tests.

use super::{Element, Elements, Kernel, KernelError, Part, SetId, SetName, Table, Transaction};
use crate::model::Family;

/// Is called instead of the kernel; the default methods call the kernel. See [`Kernel`] for what the methods promise.
pub trait Interceptor<K: Kernel>: Send {
    /// A transaction is to be applied.
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

    /// Elements that packets write are to be deleted.
    fn forget(&mut self, kernel: &mut K, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        kernel.forget(family, set, elements)
    }
}

/// A kernel and its interceptor.
#[derive(Debug)]
pub struct Intercepted<K, G> {
    /// The kernel.
    pub kernel: K,
    /// What stands in front of it.
    pub interceptor: G,
}

impl<K: Kernel, G: Interceptor<K>> Kernel for Intercepted<K, G> {
    fn claim(&mut self) -> Result<(), KernelError> {
        self.kernel.claim()
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        self.interceptor.apply(&mut self.kernel, transaction)
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        self.kernel.settle()
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        self.interceptor.read(&mut self.kernel, family)
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
        self.interceptor.read_part(&mut self.kernel, family, part)
    }

    fn read_set(&mut self, family: Family, set: SetName) -> Result<Elements, KernelError> {
        self.kernel.read_set(family, set)
    }

    fn guards(&mut self, family: Family) -> bool {
        self.kernel.guards(family)
    }

    fn forget(&mut self, family: Family, set: SetId, elements: &[Element]) -> Result<(), KernelError> {
        self.interceptor.forget(&mut self.kernel, family, set, elements)
    }
}
