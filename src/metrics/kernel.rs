//! The kernel, with a stopwatch.

use std::sync::Arc;
use std::time::Instant;

use super::Metrics;
use super::labels::ByResult;
use crate::model::Family;
use crate::ruleset::{Element, Elements, Kernel, KernelError, Part, SetId, SetName, Table, Transaction};

/// Counts and times the transactions another kernel makes.
#[derive(Debug)]
pub struct MeasuredKernel<K> {
    kernel: K,
    metrics: Arc<Metrics>,
}

impl<K> MeasuredKernel<K> {
    /// Wraps a kernel.
    pub fn new(kernel: K, metrics: Arc<Metrics>) -> Self {
        Self { kernel, metrics }
    }

    /// The kernel within.
    pub fn inner(&mut self) -> &mut K {
        &mut self.kernel
    }
}

impl<K: Kernel> Kernel for MeasuredKernel<K> {
    fn claim(&mut self) -> Result<(), KernelError> {
        self.kernel.claim()
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), KernelError> {
        let start = Instant::now();
        let result = self.kernel.apply(transaction);
        let table = &self.metrics.table;
        table.transaction_duration.observe(start.elapsed().as_secs_f64());
        let outcome = if result.is_ok() { "ok" } else { "error" };
        table.transactions.get_or_create(&ByResult { result: outcome }).inc();
        result
    }

    fn read(&mut self, family: Family) -> Result<Option<Table>, KernelError> {
        self.kernel.read(family)
    }

    fn read_part(&mut self, family: Family, part: &Part) -> Result<Option<Table>, KernelError> {
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
