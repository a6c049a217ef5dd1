//! A stopwatch in front of the kernel.

use std::sync::Arc;
use std::time::Instant;

use super::Metrics;
use super::labels::ByResult;
use crate::ruleset::{Intercepted, Interceptor, Kernel, KernelError, Transaction};

/// Counts and times transactions.
#[derive(Debug)]
pub struct Stopwatch(Arc<Metrics>);

impl Stopwatch {
    /// Puts one in front of a kernel.
    pub fn before<K: Kernel>(kernel: K, metrics: Arc<Metrics>) -> Intercepted<K, Self> {
        Intercepted { kernel, interceptor: Self(metrics) }
    }
}

impl<K: Kernel> Interceptor<K> for Stopwatch {
    fn apply(&mut self, kernel: &mut K, transaction: &Transaction) -> Result<(), KernelError> {
        let start = Instant::now();
        let result = kernel.apply(transaction);
        let table = &self.0.table;
        table.transaction_duration.observe(start.elapsed().as_secs_f64());
        let outcome = if result.is_ok() { "ok" } else { "error" };
        table.transactions.get_or_create(&ByResult { result: outcome }).inc();
        result
    }
}
